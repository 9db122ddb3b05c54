"""Adamax as in the authors' code of their generative models."""

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

  Kingma & Ba (2015), Algorithm 2, without the bias correction of m, which `optax.adamax` has. The
  first steps are smaller for that: the very first is (1 − b1) α.

  Args:
    learning_rate: α.
    b1: decay of m.
    b2: decay of u.
    eps: keeps u above 0.
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
