"""What training carries from step to step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """A pytree of arrays. `step` alone drives the randomness, so a resumed run is the same run.

  Attributes:
    step: int32, number of updates.
    params: the model's `nnx.Param`s.
    model_state: the rest of the model: running means, masks.
    opt_state: of the optax transformation.
    ema_params: moving average of the parameters after each update, or None.
  """

  step: jax.Array
  params: nnx.State
  model_state: nnx.State
  opt_state: Any
  ema_params: nnx.State | None

  @classmethod
  def create(
    cls,
    params: nnx.State,
    model_state: nnx.State,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
  ) -> 'TrainState':
    """The state before the first step."""
    ema_params = jax.tree.map(jnp.copy, params) if ema else None
    return cls(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), ema_params)

  @classmethod
  def of(
    cls, model: nnx.Module, optimizer: optax.GradientTransformation, *, ema: bool = False
  ) -> tuple[nnx.GraphDef, 'TrainState']:
    """The definition of a model, and the state before the first step."""
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    return graphdef, cls.create(params, model_state, optimizer, ema=ema)

  def apply_gradients(
    self,
    gradients: nnx.State,
    model_state: nnx.State,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
  ) -> 'TrainState':
    """The state after one update."""
    updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
    params = optax.apply_updates(self.params, updates)
    ema_params = self.ema_params
    if ema_params is not None:
      # Bias correction as in Adam: the weights of θ₁ … θₜ sum to 1, and θ₀ has none.
      weight = (1 - ema_decay) / (1 - ema_decay ** (self.step + 1))
      ema_params = optax.incremental_update(params, ema_params, weight)
    return TrainState(self.step + 1, params, model_state, opt_state, ema_params)

  def eval_model(self, graphdef: nnx.GraphDef) -> nnx.Module:
    """The model with the parameters to evaluate."""
    return nnx.merge(graphdef, self.eval_params, self.model_state)

  @property
  def eval_params(self) -> nnx.State:
    """The parameters to evaluate with: the moving average where there is one."""
    return self.params if self.ema_params is None else self.ema_params


def ema_decay(epochs: float, steps_per_epoch: int) -> float:
  """Decay of a moving average over about so many epochs: 1 − 1/steps; 0 for none."""
  return max(0.0, 1 - 1 / (epochs * steps_per_epoch)) if epochs else 0.0


def num_params(params: nnx.State) -> int:
  """How many numbers the optimizer trains."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
