"""The output features of a layer: their axes in the kernel and in the output, and their moments."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from wn import axes, base
from wn.normalization import compute_dtype


@dataclasses.dataclass(frozen=True)
class Features:
  """Where a layer's output features are.

  Attributes:
    namesake: the class of `nnx` that the layer extends.
    kernel_axes: axes of the kernel that index output features, ascending, from 0 up.
    output_axes: the axes of the output that correspond to them; negative if counted from the last.
  """

  namesake: type[nnx.Module]
  kernel_axes: tuple[int, ...]
  output_axes: tuple[int, ...]

  @classmethod
  def of(cls, layer: nnx.Module) -> 'Features':
    """The features of a `Linear`, `Conv`, `ConvTranspose`, `LinearGeneral` or `Einsum`."""
    ndim = axes.own_ndim(layer)
    kernel_axes = tuple(ndim + axis for axis in axes.default_unit_axis(layer))
    match layer:
      case nnx.LinearGeneral():
        batch = tuple(range(len(layer.batch_axis)))
        last = tuple(range(-len(layer.out_features), 0))
        return cls(nnx.LinearGeneral, kernel_axes, batch + last)
      case nnx.Einsum():
        kernel, output = axes.einsum_axes(layer.einsum_str)
        return cls(
          nnx.Einsum, kernel_axes, tuple(_axis(output, kernel[axis]) for axis in kernel_axes)
        )
    for namesake in (nnx.Linear, nnx.Conv, nnx.ConvTranspose):
      if isinstance(layer, namesake):
        return cls(namesake, kernel_axes, (-1,))
    raise TypeError(f'{type(layer).__name__} has no pre-activations.')

  def pre_activations(self, layer: nnx.Module, kernel: jax.Array, inputs, *args, **kwargs):
    """The layer's output with this kernel and without bias, in float32 or wider."""
    without = {'mask': None, 'bias': None, 'use_bias': False}
    without = {name: value for name, value in without.items() if hasattr(layer, name)}
    view = base.replace(layer, kernel=kernel, **without)
    t = self.namesake.__call__(view, inputs, *args, **kwargs)
    return t.astype(compute_dtype(t.dtype))

  def moments(self, t: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each feature of t, in the order of the output's axes."""
    features = {axis % t.ndim for axis in self.output_axes}
    other_axes = tuple(axis for axis in range(t.ndim) if axis not in features)
    if axis_name is None:
      return jnp.mean(t, other_axes), jnp.std(t, other_axes)
    mean = jax.lax.pmean(jnp.mean(t, other_axes), axis_name)
    square = jnp.square(jnp.abs(t - jnp.expand_dims(mean, other_axes)))
    return mean, jnp.sqrt(jax.lax.pmean(jnp.mean(square, other_axes), axis_name))

  def in_kernel_order(self, values: jax.Array) -> jax.Array:
    """Values by feature, from the order of the output's axes to that of the kernel's."""
    return values.transpose(self._ranks())

  def in_output_order(self, values: jax.Array) -> jax.Array:
    """The reverse of `in_kernel_order`."""
    ranks = self._ranks()
    return values.transpose([ranks.index(i) for i in range(len(ranks))])

  def _ranks(self) -> list[int]:
    # Axes counted from the first come before those counted from the last.
    order = sorted(self.output_axes, key=lambda axis: (axis < 0, axis))
    return [order.index(axis) for axis in self.output_axes]


def _axis(output: str, letter: str) -> int:
  """The axis of a letter in the output of an einsum, counted from the last after an ellipsis."""
  first, ellipsis, last = output.partition('...')
  if not ellipsis or letter in first:
    return first.index(letter)
  return last.index(letter) - len(last)
