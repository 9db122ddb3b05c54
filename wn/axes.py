"""The axes of a layer's kernel: how many there are, and which index output units."""

import itertools
from typing import Any

from flax import nnx

Layer = Any  # a layer of nnx or wn; these have no base class of their own


def own_shape(layer: Layer) -> tuple[int, ...]:
  """Shape of the layer's kernel, without the axes of a stack of layers (`nnx.vmap`)."""
  match layer:
    case nnx.Linear():
      return layer.in_features, layer.out_features
    case nnx.Embed():
      return layer.num_embeddings, layer.features
    case nnx.LinearGeneral():
      return *layer.batch_axis.values(), *layer.in_features, *layer.out_features
    case nnx.Conv() | nnx.ConvTranspose() | nnx.Einsum():
      return tuple(layer.kernel_shape)
  raise TypeError(f'{type(layer).__name__} is not a layer that wn knows.')


def own_ndim(layer: Layer) -> int:
  """Number of axes of `own_shape`."""
  return len(own_shape(layer))


def check_stack(layer: Layer, shape: tuple[int, ...]) -> None:
  """Raises ValueError if kernels of this shape are stacked along another axis than the first.

  Kernels of another size than the layer had at first may be those of layers that were pruned.
  """
  own = own_shape(layer)
  has_own_sizes = own in itertools.combinations(shape, len(own))
  if len(shape) > len(own) and has_own_sizes and shape[-len(own) :] != own:
    expected = f'(…, {", ".join(map(str, own))})'
    raise ValueError(
      f'layers must be stacked along the first axes of the kernel, {expected}; got {shape}.'
    )


def default_unit_axis(layer: Layer) -> tuple[int, ...]:
  """The axes of the kernel that index output units, counted from the last.

  Of `Embed` the axis of the embeddings: each of them is a unit, also of `attend`.
  """
  match layer:
    case nnx.ConvTranspose() if layer.transpose_kernel:
      return (-2,)
    case nnx.Embed():
      return (-2,)
    case nnx.LinearGeneral():
      ndim = own_ndim(layer)
      batch = range(-ndim, -ndim + len(layer.batch_axis))
      return *batch, *range(-len(layer.out_features), 0)
    case nnx.Einsum():
      kernel, output = einsum_axes(layer.einsum_str)
      return tuple(i - len(kernel) for i, letter in enumerate(kernel) if letter in output)
  return (-1,)


def einsum_axes(einsum_str: str) -> tuple[str, str]:
  """The letters of the kernel and of the output of 'input,kernel->output'."""
  operands, output = einsum_str.replace(' ', '').split('->')
  kernel = operands.split(',')[1]
  if '.' in kernel:
    raise ValueError(f'the kernel of einsum_str={einsum_str!r} must name all its axes.')
  return kernel, output
