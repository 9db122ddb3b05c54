"""Adamax as in the authors' code for generative models."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdamaxState(NamedTuple):
  """m: decaying mean of the gradients. u: decaying maximum of their absolute values."""

  m: optax.Updates
  u: optax.Updates


def adamax(
  learning_rate: float, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
  """m ← b1 m + (1 − b1) ∇; u ← max(b2 u, |∇| + eps); θ ← θ − α m / u.

  Kingma & Ba (2015), Algorithm 2, without `optax.adamax`'s bias correction of m, so the first steps
  are smaller: the very first is (1 − b1) α.
  """

  def init(params: optax.Params) -> AdamaxState:
    return AdamaxState(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

  def update(
    gradients: optax.Updates, state: AdamaxState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, AdamaxState]:
    del params
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, gradients)
    u = jax.tree.map(lambda u, g: jnp.maximum(b2 * u, jnp.abs(g) + eps), state.u, gradients)
    return jax.tree.map(lambda m, u: -learning_rate * m / u, m, u), AdamaxState(m, u)

  return optax.GradientTransformation(init, update)
