"""Weight-normalised `Linear`, `Conv` and `ConvTranspose`: the `flax.nnx` layers with w = (g/‖v‖) v.

Each class extends its `nnx` namesake: same constructor arguments, same forward pass. `kernel` holds
v, `scale` holds g and `bias` holds b. At construction g = ‖v‖, so the swapped layer computes the
same function as the plain one until `wn.data_dependent_init` or training changes it.
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
  """What the weight-normalised layers share: `scale` beside `kernel`, and the finished weight.

  Attributes:
    kernel: v, shaped as in the `nnx` layer.
    scale: g, one per output unit; with `log_scale`, s where g = exp(c s).
    log_scale: c; 0: `scale` holds g itself.
    mask: None, or a 0/1 array of the shape of `kernel`, applied to v before the norm.
  """

  __slots__ = ()  # `wn.convert` changes a layer's class, so its memory layout must be nnx's

  kernel: nnx.Param[jax.Array]
  scale: nnx.Param[jax.Array]
  mask: jax.Array | None
  log_scale: float

  def masked_kernel(self) -> jax.Array:
    """v with the mask applied: what the norm is taken of."""
    v = self.kernel[...]
    return v if self.mask is None else v * self.mask.astype(v.dtype)

  def normalized_kernel(self) -> jax.Array:
    """w = (g/‖v‖) v, in float32; in the kernel's dtype if the layer's `dtype` is None."""
    w = weight_norm(self.masked_kernel(), self.get_scale(), unit_axis=unit_axis(self))
    # With dtype=None nnx computes in the dtype that inputs and parameters promote to.
    return w.astype(self.kernel[...].dtype) if self.dtype is None else w

  def get_scale(self) -> jax.Array:
    """g, whichever way `scale` holds it; exp(c s) is computed in float32."""
    scale = self.scale[...]
    if not self.log_scale:
      return scale
    return jnp.exp(self.log_scale * scale.astype(jnp.promote_types(scale.dtype, jnp.float32)))

  def set_scale(self, g: jax.Array) -> None:
    """Stores g; with `log_scale`, log(g) / c."""
    self.scale[...] = self._stored(g).astype(self.scale[...].dtype)

  def _stored(self, g: jax.Array) -> jax.Array:
    return jnp.log(g) / self.log_scale if self.log_scale else g

  def _create_scale(self, log_scale: bool | float, metadata: Mapping[str, Any]) -> None:
    """Adds `scale` with g = ‖v‖ (1 for zero units), partitioned as the kernel's unit axis."""
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
  """A layer with some attributes replaced: what the `nnx` forward pass reads instead of the layer.

  It lets the forward pass of the `nnx` namesake run on the finished weight, so that every padding,
  dilation and dtype rule stays nnx's own, without writing to the layer.
  """

  def __init__(self, layer: nnx.Module, **replaced: Any):
    self._layer = layer
    self.__dict__.update(replaced)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._layer, name)


class Linear(nnx.Linear, WeightNormed):
  """Weight-normalised `nnx.Linear`: y = x·w + b, w = (g/‖v‖) v per output feature (Eq. 1–2).

  Example::

    layer = wn.Linear(784, 10, rngs=nnx.Rngs(0))  # as nnx.Linear(784, 10, rngs=nnx.Rngs(0))

  Args:
    *args: as `nnx.Linear`: in_features, out_features.
    mask: optional 0/1 array of the kernel's shape (in_features, out_features); masked weights are
      zero, have no part in the norm and get no gradient.
    log_scale: c: `scale` holds s and g = exp(c s). True is 1; False or 0: `scale` holds g.
    scale_metadata: metadata of the `scale` parameter. Its partitioning is by default that of the
      kernel's last axis.
    **kwargs: as `nnx.Linear`.

  Raises:
    ValueError: the mask has another shape than the kernel or values other than 0 and 1; or
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
    """Maps inputs [..., in_features] to [..., out_features]; further arguments as `nnx.Linear`."""
    view = KernelView(self, kernel=self.normalized_kernel())
    return nnx.Linear.__call__(view, inputs, *args, **kwargs)


class Conv(nnx.Conv, WeightNormed):
  """Weight-normalised `nnx.Conv`; the norm of a unit runs over the window and the input features.

  Example::

    layer = wn.Conv(3, 96, (3, 3), rngs=nnx.Rngs(0))  # as nnx.Conv(3, 96, (3, 3), rngs=nnx.Rngs(0))

  Args:
    *args: as `nnx.Conv`: in_features, out_features, kernel_size, strides.
    log_scale: c: `scale` holds s and g = exp(c s). True is 1; False or 0: `scale` holds g.
    scale_metadata: metadata of the `scale` parameter. Its partitioning is by default that of the
      kernel's last axis.
    **kwargs: as `nnx.Conv`. A `mask` must be a 0/1 array; it is applied before the norm, so masked
      weights have no part in it, and a fully masked unit has w = 0 and zero gradients.

  Raises:
    ValueError: the mask has another shape than the kernel or values other than 0 and 1; or
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
    """Maps inputs [*batch, *spatial, in_features]; further arguments as `nnx.Conv`."""
    view = KernelView(self, kernel=self.normalized_kernel(), mask=None)
    return nnx.Conv.__call__(view, inputs, *args, **kwargs)


class ConvTranspose(nnx.ConvTranspose, WeightNormed):
  """Weight-normalised `nnx.ConvTranspose`; one norm per *output* feature.

  With `transpose_kernel=True` the kernel has shape (*window, out_features, in_features), and the
  norm runs over the window and the last axis; otherwise over the window and the axis before it.

  Args:
    *args: as `nnx.ConvTranspose`: in_features, out_features, kernel_size, strides.
    log_scale: c: `scale` holds s and g = exp(c s). True is 1; False or 0: `scale` holds g.
    scale_metadata: metadata of the `scale` parameter. Its partitioning is by default that of the
      kernel's output axis.
    **kwargs: as `nnx.ConvTranspose`; `mask` as in `wn.Conv`.

  Raises:
    ValueError: the mask has another shape than the kernel or values other than 0 and 1; or
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
    """Maps inputs [*batch, *spatial, in_features]; further arguments as `nnx.ConvTranspose`."""
    view = KernelView(self, kernel=self.normalized_kernel(), mask=None)
    return nnx.ConvTranspose.__call__(view, inputs, *args, **kwargs)


def log_factor(log_scale: bool | float) -> float:
  """c where g = exp(c s), as the option `log_scale` gives it; 0: the scale holds g itself.

  With an optimiser such as Adam, whose steps do not depend on the size of the gradient, a step of α
  in s multiplies g by exp(c α). The authors' code of inverse autoregressive flow has c = 3. Take
  care when you compare: its TensorFlow version stores log(g)/3 at initialisation, but reads exp(s).

  Raises:
    ValueError: it is negative or not finite.
  """
  factor = float(log_scale)
  if not 0 <= factor < math.inf:
    raise ValueError(
      f'log_scale must be c, at least 0 and finite, where g = exp(c s); got {log_scale}.'
    )
  return factor


def unit_axis(layer: nnx.Module) -> int:
  """The axis of a plain or weight-normalised layer's kernel that indexes its output units."""
  return -2 if getattr(layer, 'transpose_kernel', False) else -1


def _check_mask(mask: jax.Array | None, kernel_shape: tuple[int, ...]) -> None:
  if mask is None:
    return
  if mask.shape != kernel_shape:
    raise ValueError(f'mask must have the shape of the kernel, {kernel_shape}; got {mask.shape}.')
  if not isinstance(mask, jax.core.Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('mask must hold only 0 (weight removed) and 1 (weight kept).')
