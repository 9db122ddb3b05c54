"""Acting and learning in parallel: the environments step while the network is updated."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import config_dict

import wn
from experiments.dqn import agent, environments
from experiments.dqn.agent import AgentState, Batch
from experiments.dqn.evaluation import Policy
from experiments.dqn.replay import Replay
from experiments.training.state import num_params

Leaves = list[jax.Array]  # of an `AgentState`
Unflatten = Callable[[Leaves], AgentState]
Learn = Callable[[AgentState, Batch], tuple[AgentState, dict[str, jax.Array]]]
Sums = dict[str, jax.Array]


class ActorLearner:
  """Steps N environments together and makes the updates that are due.

  A step of all environments is N agent steps. Its actions come from the parameters after all
  updates of the previous step, whatever the timing, so the same seed gives the same run (bit for
  bit on a CPU). While the environments step, the network learns from N / `update_period`
  minibatches or, with N < `update_period`, from one every `update_period` / N steps.

  The network is initialized data-dependently (§3) on observations of random play. All random
  numbers except those of the environments follow from the seed and the number of agent steps.

  Attributes:
    steps: agent steps so far.
    updates: updates so far.
    games: the training games.
    replay: the replay memory.
    graphdef: the network's definition.
    num_params: number of trained parameters.
  """

  def __init__(self, config: config_dict.FrozenConfigDict):
    self.config = config
    self.steps = self.updates = 0
    env = environments.make(config.variant.game, **config.env)
    params_key, self._act_key, self._eval_key = jax.random.split(jax.random.key(config.seed), 3)
    network = agent.create_network(config, int(env.single_action_space.n), params_key)
    examples = environments.random_play(env, config.init.examples, config.seed)
    # Not under `jax.jit`: a program with warnings is not kept in the compilation cache.
    wn.data_dependent_init(network, examples, init_scale=config.init.scale)
    self.games = environments.Games(env, config.seed, config.steps_per_epoch // env.num_envs)
    self.replay = Replay(config.replay.capacity // env.num_envs, env.num_envs)
    self.graphdef, state = agent.create(config, network)
    self.num_params = num_params(state.train.params)
    # Kept as a list between compiled calls: flattening and rebuilding an nnx.State takes 0.15 ms.
    self._leaves, structure = jax.tree.flatten(state)
    self._unflatten: Unflatten = structure.unflatten
    self._act = jax.jit(functools.partial(_act, unflatten=self._unflatten, graphdef=self.graphdef))
    learn = functools.partial(
      agent.learn,
      graphdef=self.graphdef,
      optimizer=agent.create_optimizer(config),
      discount=config.learning.discount,
    )
    self._update = jax.jit(
      functools.partial(_update, unflatten=self._unflatten, learn=learn), donate_argnums=(0, 1)
    )
    self._copy_to_target = jax.jit(
      lambda leaves: jax.tree.leaves(agent.copy_to_target(self._unflatten(leaves))),
      donate_argnums=0,
    )
    self.start_window()

  @property
  def state(self) -> AgentState:
    """The state of the agent. The next step donates its buffers."""
    state = self._unflatten(self._leaves)
    return dataclasses.replace(state, step=jnp.array(self.steps, jnp.int32))

  @state.setter
  def state(self, state: AgentState) -> None:
    self.steps, self.updates = int(state.step), int(state.train.step)
    self._leaves = jax.tree.leaves(state)

  @property
  def epsilon(self) -> float:
    """Probability of a random action in the next step."""
    return agent.epsilon(self.steps, **self.config.exploration)

  def step(self) -> np.ndarray:
    """Steps every environment and makes the updates that are due; returns the actions [N].

    1. Chooses the actions with the parameters after all updates so far.
    2. The environments take them, while the target network is copied and the network learns, each
       if it is due, from what was in the replay memory before this step.
    3. Adds the step to the replay memory.
    """
    config, games = self.config, self.games
    frames, ages = games.observations[:, -1], games.ages
    actions = self._choose(self._act_key, self.steps, games.observations, self.epsilon)
    games.send(actions)
    is_due = self.steps % config.learning.update_period == 0
    if is_due and self.steps >= config.replay.learning_starts:
      if self.updates % config.learning.target_period == 0:
        self._leaves = self._copy_to_target(self._leaves)
      self.learn()
    step = games.receive()
    self.replay.add(frames, ages, actions, step.rewards, step.terminal, step.truncated)
    self._returns += step.returns
    self.steps += config.env.num_envs
    return actions

  def learn(self) -> None:
    """Draws the minibatches of one step and starts the updates on them."""
    config = self.config
    updates = agent.updates_at_once(config.env.num_envs, config.learning.update_period)
    rng = np.random.default_rng((config.seed, self.steps))
    batches = jax.device_put(self.replay.sample(rng, updates, config.replay.batch_size))
    self._leaves, self._sums = self._update(self._leaves, self._sums, batches)
    self.updates += updates

  def eval_policy(self) -> Policy:
    """The current network with the ε of evaluations. Valid until the next step."""
    key = jax.random.fold_in(self._eval_key, self.steps)
    epsilon = self.config.evaluation.epsilon
    return lambda step, observations: self._choose(key, step, observations, epsilon)

  def take_metrics(self) -> dict[str, float]:
    """Metrics of the agent steps since the last call.

    Waits for the updates. Metrics of updates or episodes are left out if there were none.
    """
    window = self.window()
    metrics = {
      'frames': float(self.steps * environments.FRAME_SKIP),
      'train/epsilon': self.epsilon,
      'agent_steps_per_second': window['steps'] / window['seconds'],
      'updates_per_second': window['updates'] / window['seconds'],
    }
    if updates := window['updates']:
      metrics |= {f'train/{name}': value / updates for name, value in window['sums'].items()}
    if returns := window['returns']:
      metrics |= {
        'train/episode_return': float(np.mean(returns)),
        'train/episodes': float(len(returns)),
      }
    self.start_window()
    return metrics

  def start_window(self, saved: Mapping[str, Any] | None = None) -> None:
    """Starts the metrics of `take_metrics` at this moment, or resumes them from a `window`."""
    saved = saved or {'sums': {'loss': 0.0, 'mean_q': 0.0}, 'updates': 0, 'returns': []}
    self._sums = {name: jnp.float32(value) for name, value in saved['sums'].items()}
    self._returns: list[float] = saved['returns']
    self._window_updates = self.updates - saved['updates']
    self._window_steps = self.steps - saved.get('steps', 0)
    self._window_start = time.perf_counter() - saved.get('seconds', 0.0)

  def window(self) -> dict[str, Any]:
    """The sums behind `take_metrics`, as JSON values. Waits for the updates."""
    return {
      'sums': {name: float(value) for name, value in jax.device_get(self._sums).items()},
      'updates': self.updates - self._window_updates,
      'returns': self._returns,
      'steps': self.steps - self._window_steps,
      'seconds': time.perf_counter() - self._window_start,
    }

  def _choose(
    self, key: jax.Array, step: int, observations: np.ndarray, epsilon: float
  ) -> np.ndarray:
    actions = self._act(self._leaves, key, np.int32(step), observations, np.float32(epsilon))
    return np.asarray(actions)


def _act(
  leaves: Leaves,
  key: jax.Array,
  step: jax.Array,
  observations: jax.Array,
  epsilon: jax.Array,
  *,
  unflatten: Unflatten,
  graphdef: nnx.GraphDef,
) -> jax.Array:
  params = unflatten(leaves).train.params
  key = jax.random.fold_in(key, step)
  return agent.act(params, key, observations, epsilon, graphdef=graphdef)


def _update(
  leaves: Leaves, sums: Sums, batches: Batch, *, unflatten: Unflatten, learn: Learn
) -> tuple[Leaves, Sums]:
  """Updates on minibatches [U, B, ...] in turn; adds their metrics to `sums`.

  Unrolled: inside an XLA loop, gradients of convolutions are slow on CPUs.
  """
  state = unflatten(leaves)
  for arrays in zip(*(list(array) for array in batches)):
    state, metrics = learn(state, Batch(*arrays))
    sums = jax.tree.map(jnp.add, sums, metrics)
  return jax.tree.leaves(state), sums
