"""Inverse autoregressive flow on a vector (Kingma et al. 2016)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.training.layers import Layers
from experiments.vae.autoregressive import autoregressive_mask


def iaf_step(z: jax.Array, m: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
  """z ← (z − m) / exp(s), where m and s of an element depend only on the elements before it.

  Args:
    z: [B, ...] sample.
    m: [B, ...] shift.
    s: [B, ...] log scale.

  Returns:
    The new z and the change of log q [B], the sum of s: the Jacobian is triangular, with exp(−s)
    on its diagonal.
  """
  return (z - m) * jnp.exp(-s), jnp.sum(s, axis=tuple(range(1, s.ndim)))


class MADE(nnx.Module):
  """(m, s) of `iaf_step` from masked dense layers; element i sees the context and z[:i].

  Args:
    features: size of z.
    context: size of the context.
    width: units per hidden layer, at least `features`.
    depth: number of hidden layers, at least 1.
    layers: creates the layers.
  """

  def __init__(self, features: int, context: int, *, width: int, depth: int, layers: Layers):
    inputs = np.arange(1, features + 1)  # degrees: positions, from 1
    # Hidden units of degree d see z[:d]. Those of degree 0 see only the context, so that the first
    # element of m and s depends on it too.
    hidden = np.arange(width) % features
    degrees = [inputs] + [hidden] * depth
    self.hidden = nnx.List(
      [
        layers.masked_linear(len(a), len(b), mask=jnp.array(autoregressive_mask(a, b)))
        for a, b in itertools.pairwise(degrees)
      ]
    )
    self.context = layers.linear(context, width)
    mask = autoregressive_mask(hidden, inputs - 1)
    # One array per layer: the training step donates its buffers, each of them once.
    self.mean, self.log_scale = (
      layers.masked_linear(width, features, mask=jnp.array(mask), dtype=None) for _ in range(2)
    )

  def __call__(self, z: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
    """m and s [B, features] from z [B, features] and context [B, context]."""
    first, *rest = self.hidden
    h = nnx.elu(first(z) + self.context(context))
    for layer in rest:
      h = nnx.elu(layer(h))
    # Scaled by 0.1 to begin near the identity, as in the authors' convolutional flow.
    return 0.1 * self.mean(h), 0.1 * self.log_scale(h)


class Flow(nnx.Module):
  """Steps of inverse autoregressive flow, with the order of z reversed between them.

  Args:
    steps: number of steps.
    features: size of z.
    context: size of the context.
    width: units per hidden layer of a step.
    depth: hidden layers per step.
    layers: creates the layers.
  """

  def __init__(
    self, steps: int, features: int, context: int, *, width: int, depth: int, layers: Layers
  ):
    self.steps = nnx.List(
      [MADE(features, context, width=width, depth=depth, layers=layers) for _ in range(steps)]
    )

  def __call__(self, z: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The transformed z [B, features] and the change of log q [B]."""
    log_q = jnp.zeros(z.shape[0], z.dtype)
    for i, step in enumerate(self.steps):
      if i:
        z = z[:, ::-1]
      z, change = iaf_step(z, *step(z, context))
      log_q += change
    return z, log_q
