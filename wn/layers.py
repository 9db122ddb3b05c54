"""Weight-normalised `Linear`, `Conv` and `ConvTranspose`: `flax.nnx` layers with w = (g/‖v‖) v.

Each class extends its `nnx` namesake, with the same constructor arguments and forward pass.
`kernel` holds v, `scale` holds g and `bias` holds b. Initially g = ‖v‖, so a new layer computes the
same function as its plain namesake.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wn.normalization import unit_norm, weight_norm


class WeightNormed:
  """Base class of the weight-normalised layers.

  Attributes:
    kernel: v, shaped as in the `nnx` layer.
    scale: [units] g; if `log_scale` is c > 0, s with g = exp(c s).
    log_scale: c, or 0 if `scale` holds g.
    mask: 0/1 array of the kernel's shape, applied to v before the norm, or None.
  """

  __slots__ = ()  # `wn.convert` changes a layer's class, which needs the memory layout of nnx's

  kernel: nnx.Param[jax.Array]
  scale: nnx.Param[jax.Array]
  mask: jax.Array | None
  log_scale: float

  def masked_kernel(self) -> jax.Array:
    """v, with the mask applied."""
    v = self.kernel[...]
    return v if self.mask is None else v * self.mask.astype(v.dtype)

  def normalized_kernel(self) -> jax.Array:
    """w = (g/‖v‖) v, in float32, or in the kernel's dtype if the layer's `dtype` is None."""
    w = weight_norm(self.masked_kernel(), self.get_scale(), unit_axis=unit_axis(self))
    # With dtype=None nnx computes in the dtype that inputs and parameters promote to.
    return w.astype(self.kernel[...].dtype) if self.dtype is None else w

  def get_scale(self) -> jax.Array:
    """g; exp(c s) is computed in float32."""
    scale = self.scale[...]
    if not self.log_scale:
      return scale
    return jnp.exp(self.log_scale * scale.astype(jnp.promote_types(scale.dtype, jnp.float32)))

  def set_scale(self, g: jax.Array) -> None:
    """Stores g, or log(g) / c if `log_scale` is c > 0."""
    self.scale[...] = self._stored(g).astype(self.scale[...].dtype)

  def _stored(self, g: jax.Array) -> jax.Array:
    return jnp.log(g) / self.log_scale if self.log_scale else g

  def _create_scale(self, log_scale: bool | float, metadata: Mapping[str, Any]) -> None:
    """Adds `scale` with g = ‖v‖ (1 for zero units), sharded like the kernel's unit axis."""
    self.log_scale = log_factor(log_scale)
    _check_mask(self.mask, self.kernel[...].shape)
    g = unit_norm(self.masked_kernel(), unit_axis=unit_axis(self))
    partition = self.kernel.get_metadata('out_sharding', None)
    if partition is not None and 'out_sharding' not in metadata:
      ndim = self.kernel[...].ndim
      by_axis = tuple(partition) + (None,) * (ndim - len(partition))
      metadata = {**metadata, 'out_sharding': (by_axis[unit_axis(self)],)}
    self.scale = nnx.Param(self._stored(g).astype(self.kernel[...].dtype), **metadata)


class KernelView:
  """A read-only view of a layer with some attributes replaced.

  `nnx.Conv.__call__(KernelView(conv, kernel=w), x)` runs the forward pass of `nnx` on w, with its
  rules for padding, dilation and dtypes, and does not write to the layer.
  """

  def __init__(self, layer: nnx.Module, **replaced: Any):
    self._layer = layer
    self.__dict__.update(replaced)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._layer, name)


class Linear(nnx.Linear, WeightNormed):
  """Weight-normalised `nnx.Linear`: y = x·w + b with w = (g/‖v‖) v per output feature (Eq. 1–2).

  Example::

    layer = wn.Linear(784, 10, rngs=nnx.Rngs(0))  # was nnx.Linear(784, 10, rngs=nnx.Rngs(0))

  Args:
    *args: in_features and out_features, as for `nnx.Linear`.
    mask: 0/1 array [in_features, out_features]. Masked weights are zero, are not part of the norm
      and get no gradient.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale`; its sharding defaults to that of the kernel's last axis.
    **kwargs: as for `nnx.Linear`.

  Raises:
    ValueError: `mask` does not have the kernel's shape or has values other than 0 and 1, or
      `log_scale` is negative or not finite.
  """

  def __init__(
    self,
    *args,
    mask: jax.Array | None = None,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    **kwargs,
  ):
    super().__init__(*args, **kwargs)
    self.mask = nnx.data(mask)
    self._create_scale(log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, *args, **kwargs) -> jax.Array:
    """Maps [..., in_features] to [..., out_features]; other arguments as for `nnx.Linear`."""
    view = KernelView(self, kernel=self.normalized_kernel())
    return nnx.Linear.__call__(view, inputs, *args, **kwargs)


class Conv(nnx.Conv, WeightNormed):
  """Weight-normalised `nnx.Conv`; a unit's norm is over the window and the input features.

  Example::

    layer = wn.Conv(3, 96, (3, 3), rngs=nnx.Rngs(0))  # was nnx.Conv(3, 96, (3, 3), …)

  Args:
    *args: in_features, out_features, kernel_size and strides, as for `nnx.Conv`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale`; its sharding defaults to that of the kernel's last axis.
    **kwargs: as for `nnx.Conv`. `mask` must be a 0/1 array. It is applied before the norm; a fully
      masked unit has w = 0 and zero gradients.

  Raises:
    ValueError: `mask` does not have the kernel's shape or has values other than 0 and 1, or
      `log_scale` is negative or not finite.
  """

  def __init__(
    self,
    *args,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    **kwargs,
  ):
    super().__init__(*args, **kwargs)
    self._create_scale(log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, *args, **kwargs) -> jax.Array:
    """Maps [*batch, *spatial, in_features]; other arguments as for `nnx.Conv`."""
    view = KernelView(self, kernel=self.normalized_kernel(), mask=None)
    return nnx.Conv.__call__(view, inputs, *args, **kwargs)


class ConvTranspose(nnx.ConvTranspose, WeightNormed):
  """Weight-normalised `nnx.ConvTranspose`; a unit's norm is over the window and the input features.

  The kernel is [*window, in_features, out_features], or [*window, out_features, in_features] with
  `transpose_kernel=True`.

  Args:
    *args: in_features, out_features, kernel_size and strides, as for `nnx.ConvTranspose`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    scale_metadata: metadata of `scale`; its sharding defaults to that of the kernel's output axis.
    **kwargs: as for `nnx.ConvTranspose`; `mask` as in `wn.Conv`.

  Raises:
    ValueError: `mask` does not have the kernel's shape or has values other than 0 and 1, or
      `log_scale` is negative or not finite.
  """

  def __init__(
    self,
    *args,
    log_scale: bool | float = False,
    scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    **kwargs,
  ):
    super().__init__(*args, **kwargs)
    self._create_scale(log_scale, scale_metadata)

  def __call__(self, inputs: jax.Array, *args, **kwargs) -> jax.Array:
    """Maps [*batch, *spatial, in_features]; other arguments as for `nnx.ConvTranspose`."""
    view = KernelView(self, kernel=self.normalized_kernel(), mask=None)
    return nnx.ConvTranspose.__call__(view, inputs, *args, **kwargs)


def log_factor(log_scale: bool | float) -> float:
  """Converts the `log_scale` argument to c in g = exp(c s), or 0 if `scale` holds g.

  With Adam, whose step size does not depend on the size of the gradient, a step of α in s
  multiplies g by exp(c α). The authors' code for inverse autoregressive flow has c = 3; its
  TensorFlow version stores log(g)/3 at initialisation but reads exp(s).
  """
  factor = float(log_scale)
  if not 0 <= factor < math.inf:
    raise ValueError(f'log_scale must be finite and at least 0; got {log_scale}.')
  return factor


def unit_axis(layer: nnx.Module) -> int:
  """The axis of the kernel that indexes output units, for `nnx` and `wn` layers."""
  return -2 if getattr(layer, 'transpose_kernel', False) else -1


def _check_mask(mask: jax.Array | None, kernel_shape: tuple[int, ...]) -> None:
  if mask is None:
    return
  if mask.shape != kernel_shape:
    raise ValueError(f'mask must have the shape of the kernel, {kernel_shape}; got {mask.shape}.')
  if not isinstance(mask, jax.core.Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('mask must hold only 0 (weight removed) and 1 (weight kept).')
