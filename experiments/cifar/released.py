"""The normal parameterization of the authors' code: w = s W, with s fixed after initialization.

The paper's baseline trains w itself (§3). With a fixed s, an Adam step in W changes w by s times as
much, and s differs from unit to unit.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import wn


class FixedScale(nnx.Variable):
  """s of a layer, [units]; part of the model's state, not trained."""


class Linear(nnx.Linear):
  """`nnx.Linear` with the kernel s W; s is 1 until `fix_scales`."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.fixed_scale = FixedScale(jnp.ones(self.out_features))

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps inputs [..., in_features] to [..., out_features]."""
    return nnx.Linear.__call__(_scaled(self), inputs)


class Conv(nnx.Conv):
  """`nnx.Conv` with the kernel s W; s is 1 until `fix_scales`."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.fixed_scale = FixedScale(jnp.ones(self.out_features))

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Convolves inputs [*batch, *spatial, in_features]."""
    return nnx.Conv.__call__(_scaled(self), inputs)


def fix_scales(model: nnx.Module, initialized: nnx.Module) -> None:
  """Sets the scales s and the biases of `model` to those found by initialization.

  Args:
    model: a new model, with kernels W.
    initialized: a copy of it after data-dependent initialization, with kernels s W.
  """
  for (_, layer), (_, scaled) in zip(
    nnx.iter_modules(model), nnx.iter_modules(initialized), strict=True
  ):
    if isinstance(layer, Linear | Conv):
      layer.fixed_scale[...] = wn.unit_norm(scaled.kernel[...]) / wn.unit_norm(layer.kernel[...])
      layer.bias[...] = scaled.bias[...]


def _scaled(layer: Linear | Conv) -> Linear | Conv:
  scale = layer.fixed_scale[...].reshape((1,) * (layer.kernel[...].ndim - 1) + (-1,))
  return wn.replace(layer, kernel=layer.kernel[...] * scale)
