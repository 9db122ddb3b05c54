"""Adam and its two schedules, as in the authors' code."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def learning_rate(epoch: jax.Array, *, base: float, epochs: int) -> jax.Array:
  """`base` for the first half of training, then linear decay to 0 at `epochs`."""
  return base * jnp.minimum(2 - 2 * epoch / epochs, 1)


def first_moment_decay(
  epoch: jax.Array, *, first_half: float, second_half: float, epochs: int
) -> jax.Array:
  """Adam's β1, with one value for each half of training."""
  return jnp.where(epoch < epochs / 2, first_half, second_half)


def adam(
  learning_rate: Callable[[jax.Array], jax.Array],
  b1: Callable[[jax.Array], jax.Array],
  *,
  b2: float,
  eps_root: float,
  steps_per_epoch: int,
) -> optax.GradientTransformation:
  """step = lr m̂ / √(v̂ + eps_root), where lr and β1 are functions of the epoch, from 0.

  As in the authors' code, m̂ = m / (1 − β1^t) uses the β1 of step t, even after β1 has changed.
  """

  @optax.inject_hyperparams
  def transformation(learning_rate, b1):
    return optax.chain(
      optax.scale_by_adam(b1=b1, b2=b2, eps=0.0, eps_root=eps_root),
      optax.scale_by_learning_rate(learning_rate),
    )

  return transformation(
    learning_rate=lambda step: learning_rate(step // steps_per_epoch),
    b1=lambda step: b1(step // steps_per_epoch),
  )
