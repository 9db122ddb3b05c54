"""Weight-normalized layers: `flax.nnx` layers with w = (g/‖v‖) v (Eq. 2).

Each class extends its `nnx` namesake, with the same constructor arguments and forward pass.
`kernel` holds v, `scale` holds g and `bias` holds b. Initially g = ‖v‖, so a new layer computes the
same function as its plain namesake; a unit whose kernel is zero starts at g = 0 with a random v.

The arguments that all of them add to those of their namesakes:

* `unit_axis`: axis or axes of the kernel that index units, each with a g of its own: PyTorch's
  `dim`. None: one g for the whole kernel. By default the axes of the output features, as in the
  paper.
* `log_scale`: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
* `scale_metadata`: metadata of `scale`, in addition to that of the kernel, which it has with the
  sharding of the unit axes. `scale` has the kernel's dtype (float32 for 8-bit kernels).

They raise ValueError if `unit_axis` is not a set of axes of the kernel, `mask` is not a 0/1 array
of the kernel's shape, or `log_scale` is negative or not finite.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from wn import large_kernels, options
from wn.base import WeightNormed, check_mask, masked_kernel, replace
from wn.normalization import UnitAxis

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def _as_array(mask: Any) -> jax.Array | None:
  return None if mask is None else jnp.asarray(mask)


class Linear(nnx.Linear, WeightNormed):
  """Weight-normalized `nnx.Linear`: y = x·w + b with w = (g/‖v‖) v per output feature (Eq. 1–2).

  Example::

    layer = wn.Linear(784, 10, rngs=nnx.Rngs(0))  # was nnx.Linear(784, 10, rngs=nnx.Rngs(0))

  Args:
    in_features: size of the last axis of the input.
    out_features: size of the last axis of the output.
    mask: 0/1 array [in_features, out_features]. Masked weights are zero, are not part of the norm
      and get no gradient.
    unit_axis: axes of the kernel [in_features, out_features] with a g of their own, or None.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale` in addition to that of the kernel.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.Linear`.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    mask: jax.Array | None = None,
    unit_axis: UnitAxis = -1,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = _NO_METADATA,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Linear],
  ):
    super().__init__(in_features, out_features, rngs=rngs, **kwargs)
    self.mask = nnx.data(_as_array(mask))
    self._create_scale(unit_axis, log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Maps [..., in_features] to [..., out_features]; other arguments as for `nnx.Linear`."""
    inputs = jnp.asarray(inputs)
    if large_kernels.scales_outputs(self, inputs):
      dot_general = large_kernels.scaled_dot_general(self)
      view = replace(self, kernel=self.masked_kernel(), dot_general=dot_general)
    else:
      view = replace(self, kernel=self.normalized_kernel())
    return nnx.Linear.__call__(view, inputs, out_sharding)


class MaskedLinear(nnx.Linear):
  """`nnx.Linear` with a mask and without a norm: what `wn.fold` makes of a masked `wn.Linear`.

  Example::

    layer = wn.MaskedLinear(8, 8, mask=jnp.tril(jnp.ones((8, 8))), rngs=nnx.Rngs(0))

  Args:
    in_features: size of the last axis of the input.
    out_features: size of the last axis of the output.
    mask: 0/1 array [in_features, out_features]. Masked weights are zero and get no gradient.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.Linear`.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    mask: jax.Array,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Linear],
  ):
    super().__init__(in_features, out_features, rngs=rngs, **kwargs)
    self.mask = nnx.data(_as_array(mask))
    check_mask(self)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Maps [..., in_features] to [..., out_features]."""
    view = replace(self, kernel=masked_kernel(self))
    return nnx.Linear.__call__(view, inputs, out_sharding)


class Conv(nnx.Conv, WeightNormed):
  """Weight-normalized `nnx.Conv`; a unit's norm is over the window and the input features.

  Example::

    layer = wn.Conv(3, 96, (3, 3), rngs=nnx.Rngs(0))  # was nnx.Conv(3, 96, (3, 3), …)

  Args:
    in_features: size of the last axis of the input.
    out_features: size of the last axis of the output.
    kernel_size: sizes of the window.
    strides: as for `nnx.Conv`.
    mask: 0/1 array of the kernel's shape, applied before the norm. A fully masked unit has w = 0
      and zero gradients.
    unit_axis: axes of the kernel [*window, in_features, out_features] with a g of their own, or
      None. One g for each tap of a window of one axis is 0.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale` in addition to that of the kernel.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.Conv`.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] | None = 1,
    *,
    mask: jax.Array | None = None,
    unit_axis: UnitAxis = -1,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = _NO_METADATA,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Conv],
  ):
    super().__init__(
      in_features, out_features, kernel_size, strides, mask=_as_array(mask), rngs=rngs, **kwargs
    )
    self._create_scale(unit_axis, log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Maps [*batch, *spatial, in_features]; other arguments as for `nnx.Conv`."""
    view = replace(self, kernel=self.normalized_kernel(), mask=None)
    return nnx.Conv.__call__(view, inputs, out_sharding)


class ConvTranspose(nnx.ConvTranspose, WeightNormed):
  """Weight-normalized `nnx.ConvTranspose`; a unit's norm is over the window and the input features.

  The kernel is [*window, in_features, out_features], or [*window, out_features, in_features] with
  `transpose_kernel=True`.

  Example::

    layer = wn.ConvTranspose(64, 32, (4,), 2, rngs=nnx.Rngs(0))  # g per output feature
    layer = wn.ConvTranspose(64, 32, (4,), 2, unit_axis=-2, rngs=nnx.Rngs(0))  # as in PyTorch

  Args:
    in_features: size of the last axis of the input.
    out_features: size of the last axis of the output.
    kernel_size: sizes of the window.
    strides: as for `nnx.ConvTranspose`.
    mask: as in `wn.Conv`.
    unit_axis: axes of the kernel with a g of their own, or None; by default that of the output
      features. PyTorch's default, `dim=0`, is the axis of the input features: −2, or −1 with
      `transpose_kernel=True`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale` in addition to that of the kernel.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.ConvTranspose`.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    *,
    mask: jax.Array | None = None,
    unit_axis: UnitAxis | Literal['output'] = 'output',
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = _NO_METADATA,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.ConvTranspose],
  ):
    super().__init__(
      in_features, out_features, kernel_size, strides, mask=_as_array(mask), rngs=rngs, **kwargs
    )
    self._create_scale(unit_axis, log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [*batch, *spatial, in_features] to [*batch, *spatial, out_features]."""
    view = replace(self, kernel=self.normalized_kernel(), mask=None)
    return nnx.ConvTranspose.__call__(view, inputs)


class LinearGeneral(nnx.LinearGeneral, WeightNormed):
  """Weight-normalized `nnx.LinearGeneral`, the layer of attention; a unit is an output feature.

  The kernel is [*batch_axis sizes, *in_features, *out_features]; the norm is over the input
  features and `scale` has the other axes.

  Example::

    query = wn.LinearGeneral(512, (8, 64), rngs=nnx.Rngs(0))  # scale [8, 64]

  Args:
    in_features: sizes of the axes that are summed over.
    out_features: sizes of the axes of the output that replace them.
    unit_axis: axes of the kernel with a g of their own, or None; by default all but the input
      features.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale` in addition to that of the kernel.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.LinearGeneral`.
  """

  def __init__(
    self,
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    unit_axis: UnitAxis | Literal['output'] = 'output',
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = _NO_METADATA,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.LinearGeneral],
  ):
    super().__init__(in_features, out_features, rngs=rngs, **kwargs)
    self._create_scale(unit_axis, log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Arguments and result as for `nnx.LinearGeneral`."""
    view = replace(self, kernel=self.normalized_kernel())
    return nnx.LinearGeneral.__call__(view, inputs, out_sharding)


class Einsum(nnx.Einsum, WeightNormed):
  """Weight-normalized `nnx.Einsum`; the norm is over the axes of the kernel that are summed over.

  Example::

    layer = wn.Einsum('bti,hio->bhto', (8, 64, 16), rngs=nnx.Rngs(0))  # scale [8, 16]

  Args:
    einsum_str: 'input,kernel->output'.
    kernel_shape: shape of the kernel.
    bias_shape: shape of the bias, or None for no bias.
    unit_axis: axes of the kernel with a g of their own, or None; by default those that the output
      has.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale` in addition to that of the kernel.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.Einsum`.
  """

  def __init__(
    self,
    einsum_str: str,
    kernel_shape: Sequence[int],
    bias_shape: Sequence[int] | None = None,
    *,
    unit_axis: UnitAxis | Literal['output'] = 'output',
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = _NO_METADATA,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Einsum],
  ):
    super().__init__(einsum_str, kernel_shape, bias_shape, rngs=rngs, **kwargs)
    self._create_scale(unit_axis, log_scale, scale_metadata)

  def __call__(
    self, inputs: jax.Array, einsum_str: str | None = None, out_sharding: Any = None
  ) -> jax.Array:
    """Arguments and result as for `nnx.Einsum`."""
    view = replace(self, kernel=self.normalized_kernel())
    return nnx.Einsum.__call__(view, inputs, einsum_str, out_sharding)


class Embed(nnx.Embed, WeightNormed):
  """Weight-normalized `nnx.Embed`; every embedding has a norm of its own.

  `embedding` holds v. A call normalizes the whole table: to look up a few embeddings in a loop,
  fold the layer first.

  Example::

    layer = wn.Embed(32_000, 512, rngs=nnx.Rngs(0))  # scale [32_000]

  Args:
    num_embeddings: size of the vocabulary.
    features: size of an embedding.
    unit_axis: axes of the table [num_embeddings, features] with a g of their own, or None.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale` in addition to that of the table.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.Embed`.
  """

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    unit_axis: UnitAxis = -2,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = _NO_METADATA,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Embed],
  ):
    super().__init__(num_embeddings, features, rngs=rngs, **kwargs)
    self._create_scale(unit_axis, log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Maps integers [...] to embeddings [..., features]."""
    view = replace(self, embedding=self.normalized_kernel())
    return nnx.Embed.__call__(view, inputs, out_sharding)

  def attend(self, query: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Maps [..., features] to products with all embeddings, [..., num_embeddings]."""
    view = replace(self, embedding=self.normalized_kernel())
    return nnx.Embed.attend(view, query, out_sharding)
