"""Deep Q-learning (Mnih et al. 2015) as pure functions: ε-greedy actions and one update."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import config_dict

from experiments.dqn.network import STACK, QNetwork
from experiments.dqn.rl_packages import rlax
from experiments.training import optimizers
from experiments.training.state import TrainState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AgentState:
  """What learning carries from update to update.

  Attributes:
    step: int32, agent steps at the last checkpoint.
    train: parameters and optimizer state; its `step` counts updates.
    target_params: parameters of the target network.
  """

  step: jax.Array
  train: TrainState
  target_params: nnx.State

  @property
  def params(self) -> nnx.State:
    """The trained parameters."""
    return self.train.params


class Batch(NamedTuple):
  """Transitions (s, a, r, γ, s') at times t−1 and t.

  Attributes:
    frames: [B, 5, 84, 84] uint8. s_tm1 is the first four, s_t the last four.
    ages: [B, 2] agent steps from the start of the episode to the newest frame of s_tm1 and of s_t.
      Frames before the start count as black.
    a_tm1: [B] int32, actions.
    r_t: [B] float32, rewards clipped to [−1, 1].
    discount_t: [B] float32, factor of γ: 0 where a life or the game was lost, else 1.
  """

  frames: np.ndarray
  ages: np.ndarray
  a_tm1: np.ndarray
  r_t: np.ndarray
  discount_t: np.ndarray


def create_network(
  config: config_dict.FrozenConfigDict, num_actions: int, key: jax.Array
) -> QNetwork:
  """Creates the network, before data-dependent initialization."""
  return QNetwork(
    num_actions,
    parameterization=config.variant.parameterization,
    **config.model,
    rngs=nnx.Rngs(params=key),
  )


def create(
  config: config_dict.FrozenConfigDict, network: QNetwork
) -> tuple[nnx.GraphDef, AgentState]:
  """The network's definition and the initial state."""
  graphdef, params = nnx.split(network, nnx.Param)
  train = TrainState.create(params, nnx.State({}), create_optimizer(config), ema=False)
  target_params = jax.tree.map(jnp.copy, params)
  return graphdef, AgentState(jnp.zeros((), jnp.int32), train, target_params)


def create_optimizer(config: config_dict.FrozenConfigDict) -> optax.GradientTransformation:
  """The authors' Adamax, or the centered RMSProp of Mnih et al.

  Mnih et al. sum gradients over the minibatch and we average them, so ε, under the root, is divided
  by the squared batch size to give the same steps.
  """
  values = config.optimizer
  if values.name == 'adamax':
    return optimizers.adamax(values.learning_rate, b1=values.b1, b2=values.b2, eps=values.eps)
  return optax.rmsprop(
    values.learning_rate,
    decay=values.rmsprop_decay,
    eps=values.rmsprop_eps / config.replay.batch_size**2,
    eps_in_sqrt=True,
    centered=True,
  )


def epsilon(step: int, *, start: float, end: float, steps: int, delay: int) -> float:
  """Probability of a random action: `start` to `end`, linearly in `steps` steps after `delay`."""
  return end + (start - end) * max(0.0, 1 - max(0, step - delay) / steps)


def updates_at_once(num_envs: int, update_period: int) -> int:
  """Number of consecutive updates when updates are due after a step of all environments."""
  return max(1, num_envs // update_period)


def stack(frames: jax.Array, ages: jax.Array) -> jax.Array:
  """Observations [B, 4, H, W]: the frames, with those of the previous episode set to 0.

  Args:
    frames: [B, 4, H, W] consecutive frames.
    ages: [B] agent steps from the start of the episode to the last frame.
  """
  back = jnp.arange(STACK - 1, -1, -1)[None, :]  # steps before the last frame
  is_seen = back <= ages[:, None]
  return jnp.where(is_seen[:, :, None, None], frames, 0)


def act(
  params: nnx.State,
  key: jax.Array,
  observations: jax.Array,
  epsilon: jax.Array,
  *,
  graphdef: nnx.GraphDef,
) -> jax.Array:
  """ε-greedy actions [B] int32 for observations [B, 4, 84, 84]."""
  q = nnx.merge(graphdef, params)(observations)
  explore_key, action_key = jax.random.split(key)
  explores = jax.random.uniform(explore_key, q.shape[:1]) < epsilon
  random = jax.random.randint(action_key, q.shape[:1], 0, q.shape[1])
  return jnp.where(explores, random, jnp.argmax(q, axis=-1)).astype(jnp.int32)


def learn(
  state: AgentState,
  batch: Batch,
  *,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  discount: float,
) -> tuple[AgentState, dict[str, jax.Array]]:
  """One update on a minibatch.

  Returns:
    The new state, and the metrics `loss`, the mean Huber loss of the TD errors, and `mean_q`, the
    mean of max_a Q(s_tm1, a).
  """
  s_tm1 = stack(batch.frames[:, :-1], batch.ages[:, 0])
  s_t = stack(batch.frames[:, 1:], batch.ages[:, 1])
  q_t = nnx.merge(graphdef, state.target_params)(s_t)

  def loss_fn(params: nnx.State) -> tuple[jax.Array, jax.Array]:
    q_tm1 = nnx.merge(graphdef, params)(s_tm1)
    td_errors = jax.vmap(rlax.q_learning)(
      q_tm1, batch.a_tm1, batch.r_t, discount * batch.discount_t, q_t
    )
    # The gradient of the Huber loss is the TD error clipped to ±1.
    return jnp.mean(rlax.huber_loss(td_errors, 1.0)), jnp.mean(jnp.max(q_tm1, axis=-1))

  (loss, mean_q), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.train.params)
  train = state.train.apply_gradients(gradients, state.train.model_state, optimizer)
  return dataclasses.replace(state, train=train), {'loss': loss, 'mean_q': mean_q}


def copy_to_target(state: AgentState) -> AgentState:
  """Copies the trained parameters to the target network."""
  return dataclasses.replace(state, target_params=jax.tree.map(jnp.copy, state.train.params))
