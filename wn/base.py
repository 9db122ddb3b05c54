"""What all weight-normalized layers share: where v and g are, and how g is stored."""

import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from wn.axes import Layer, default_unit_axis, own_ndim
from wn.normalization import UnitAxis, compute_dtype, norm_axes, unit_norm, weight_norm

M = TypeVar('M', bound=nnx.Module)


class WeightNormed:
  """Base class of the weight-normalized layers.

  Example::

    if isinstance(layer, wn.WeightNormed):
      w, g = layer.normalized_kernel(), layer.get_scale()

  Attributes:
    kernel: v, shaped as in the `nnx` layer (`wn.Embed`: `embedding`). The weight of the layer, w,
      is `normalized_kernel()`.
    scale: g, shaped like v without the axes of the norm; if `log_scale` is c > 0, s with
      g = exp(c s).
    mask: 0/1 array of the kernel's shape, applied to v before the norm, or None.
    unit_axis: axes of v that index units, counted from the last; () if one g scales the kernel.
    log_scale: c, or 0 if `scale` holds g.
  """

  __slots__ = ()  # `wn.convert` changes a layer's class, which needs the memory layout of nnx's

  scale: nnx.Param[jax.Array]
  unit_axis: tuple[int, ...]
  log_scale: float
  dtype: Any

  def masked_kernel(self) -> jax.Array:
    """v, with the mask applied."""
    return masked_kernel(self)

  def normalized_kernel(self) -> jax.Array:
    """w = (g/‖v‖) v, in float32, or in the kernel's dtype if the layer's `dtype` is None."""
    w = weight_norm(self.masked_kernel(), self.get_scale(), unit_axis=unit_axes(self))
    # With dtype=None nnx computes in the dtype that inputs and parameters promote to.
    return w.astype(kernel_of(self)[...].dtype) if self.dtype is None else w

  def get_scale(self) -> jax.Array:
    """g; exp(c s) is computed in float32."""
    return read_scale(self.scale, self.log_scale)

  def set_scale(self, g: jax.Array) -> None:
    """Stores g, or log(g) / c if `log_scale` is c > 0.

    Raises:
      ValueError: `g` does not have the shape of `scale`, or is not positive with `log_scale`.
    """
    g = jnp.asarray(g)
    if g.shape != self.scale[...].shape:
      raise ValueError(f'g must have shape {self.scale[...].shape}; got {g.shape}.')
    assign(self.scale, stored_scale(g, self.log_scale))

  def set_weight(self, w: jax.Array) -> None:
    """Sets v = w and g = ‖w‖, so that the layer's weight is w (a unit of zeros: g = 0).

    Assigning to `kernel` instead changes only the direction of the weight vectors.

    Raises:
      ValueError: `w` does not have the kernel's shape.
    """
    w = jnp.asarray(w)
    kernel = kernel_of(self)
    if w.shape != kernel[...].shape:
      raise ValueError(f'w must have the shape of the kernel, {kernel[...].shape}; got {w.shape}.')
    assign(kernel, w)
    assign(self.scale, stored_scale(_start(self, kernel, self.log_scale), self.log_scale))

  def _create_scale(
    self,
    unit_axis: UnitAxis | Literal['output'],
    log_scale: bool | float,
    metadata: Mapping[str, Any],
  ) -> None:
    """Adds `scale` with g = ‖v‖, which has the kernel's metadata, and the attributes above."""
    check_mask(self)
    kernel = kernel_of(self)
    ndim = own_ndim(self)
    unit_axis = default_unit_axis(self) if unit_axis == 'output' else unit_axis
    other_axes = norm_axes(ndim, unit_axis)
    self.unit_axis = tuple(axis - ndim for axis in range(ndim) if axis not in other_axes)
    self.log_scale = log_factor(log_scale)
    g = _start(self, kernel, self.log_scale)
    self.scale = new_scale(kernel, g, unit_axes(self), self.log_scale, metadata)


def _start(layer: Layer, kernel: nnx.Variable, log_scale: float) -> jax.Array:
  """g = ‖v‖ for a layer that is to compute what it does without the norm; may change zero units."""
  mask = getattr(layer, 'mask', None)
  name = f'a {type(layer).__name__}'
  old = kernel[...]
  g, v = start_at(old, unit_axes(layer), log_scale, name, mask)
  if v is not old:
    assign(kernel, v)
  return g


def start_at(
  v: jax.Array, axes: UnitAxis, log_scale: float, name: str, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """(g, v) with which (g/‖v‖) v is the given v, and can be trained.

  A unit of zeros would jump from 0 to ‖w‖ = g in its first step, however small the step. It gets a
  random direction of norm 1 and g = 0 instead, with which it starts at w = 0 and trains as it
  should (a fully masked unit keeps v = 0 and g = 1).
  """
  other_axes = norm_axes(v.ndim, axes)
  masked = v if mask is None else v * jnp.asarray(mask).astype(v.dtype)
  g = unit_norm(masked, unit_axis=axes)
  is_zero = jnp.all(masked == 0, axis=other_axes)
  if mask is not None:
    is_zero &= jnp.any(jnp.asarray(mask) != 0, axis=other_axes)
  is_traced = isinstance(is_zero, Tracer)
  if not is_traced and not is_zero.any():
    return g, v
  if log_scale:
    if not is_traced:
      warn(
        f'{int(is_zero.sum())} of {is_zero.size} units of {name} with log_scale have a zero '
        'kernel: g = exp(c s) cannot be 0, so their weight jumps from 0 to ‖w‖ = 1 in the '
        'first step. Use log_scale=0 for this layer.'
      )
    return g, v
  random = jax.random.normal(jax.random.key(0), v.shape, compute_dtype(v.dtype))
  if mask is not None:
    random *= jnp.asarray(mask).astype(random.dtype)
  random /= jnp.expand_dims(unit_norm(random, unit_axis=axes), other_axes)
  random = random.astype(v.dtype)
  return jnp.where(is_zero, 0, g), jnp.where(jnp.expand_dims(is_zero, other_axes), random, v)


def warn(message: str) -> None:
  """A warning at the line that called wn, through whatever functions of wn and flax."""
  level, frame = 2, sys._getframe(1)
  while frame and frame.f_globals.get('__name__', '').split('.')[0] in ('wn', 'flax'):
    level, frame = level + 1, frame.f_back
  warnings.warn(message, stacklevel=level)


def new_scale(
  kernel: nnx.Variable,
  g: jax.Array,
  axes: tuple[int, ...],
  log_scale: float,
  metadata: Mapping[str, Any],
) -> nnx.Param:
  """The parameter `scale`, with the kernel's metadata, its sharding reduced to `axes`."""
  # Hooks, such as `on_get_value`, are functions of the kernel's value.
  inherited = {k: v for k, v in kernel.get_metadata().items() if not k.startswith('on_')}
  partition = inherited.pop('out_sharding', None)
  if partition is not None:
    named = isinstance(partition, jax.sharding.NamedSharding)
    names = tuple(partition.spec if named else partition)
    names += (None,) * (kernel[...].ndim - len(names))
    names = tuple(names[axis] for axis in axes)
    if named:
      names = jax.sharding.NamedSharding(partition.mesh, jax.sharding.PartitionSpec(*names))
    inherited['out_sharding'] = names
  dtype = kernel[...].real.dtype if jnp.iscomplexobj(kernel[...]) else kernel[...].dtype
  # 8 bits have 2 to 3 digits of a norm.
  dtype = jnp.float32 if dtype.itemsize == 1 else dtype
  return nnx.Param(stored_scale(g, log_scale).astype(dtype), **{**inherited, **metadata})


def read_scale(scale: nnx.Variable | jax.Array, log_scale: float) -> jax.Array:
  """g from `scale`; exp(c s) is computed in float32."""
  value = scale[...]
  if not log_scale:
    return value
  return jnp.exp(log_scale * value.astype(compute_dtype(value.dtype)))


def stored_scale(g: jax.Array, log_scale: float) -> jax.Array:
  """What `scale` holds for g."""
  if not log_scale:
    return g
  if not isinstance(g, Tracer) and not (g > 0).all():
    raise ValueError('g must be positive with log_scale, as g = exp(c s).')
  return jnp.log(g) / log_scale


def assign(variable: nnx.Variable, value: jax.Array) -> None:
  """Sets a variable, keeping its dtype and, on a mesh of explicit axes, its sharding."""
  old = variable[...]
  value = value.astype(old.dtype)
  sharding = jax.typeof(old).sharding
  if sharding.mesh.are_all_axes_explicit and sharding != jax.typeof(value).sharding:
    value = jax.sharding.reshard(value, sharding)
  variable[...] = value


def replace(module: M, **attributes: Any) -> M:
  """A shallow copy of a module with some attributes replaced; the module itself is not written.

  Other attributes, variables and submodules are shared with the module.

  Example::

    # Runs a layer on another weight.
    nnx.Conv.__call__(wn.replace(conv, kernel=w), x)

  Args:
    module: any module.
    **attributes: new values; plain arrays will do where the module reads `self.kernel[...]`.
  """
  view = object.__new__(type(module))
  vars(view).update(vars(module), **attributes)
  return view


def weight(layer: Layer) -> jax.Array:
  """The weight w of a layer, weight-normalized or plain, in the shape of its kernel.

  Use it where a model reads a layer's weight itself, as with tied weights: `layer.kernel` is v in a
  weight-normalized layer.

  Example::

    logits = h @ wn.weight(self.encoder).T

  Args:
    layer: `Linear`, `Conv`, `ConvTranspose`, `LinearGeneral`, `Einsum` or `Embed`, of `wn` or
      `nnx`.
  """
  if isinstance(layer, WeightNormed):
    return layer.normalized_kernel()
  return masked_kernel(layer)


def log_factor(log_scale: bool | float) -> float:
  """Converts the `log_scale` argument to c in g = exp(c s), or 0 if `scale` holds g.

  With Adam, whose step size does not depend on the size of the gradient, a step of α in s
  multiplies g by exp(c α). The authors' code for inverse autoregressive flow has c = 3; its
  TensorFlow version stores log(g)/3 at initialization but reads exp(s).
  """
  factor = float(log_scale)
  if not 0 <= factor < math.inf:
    raise ValueError(f'log_scale must be finite and at least 0; got {log_scale}.')
  return factor


def is_normalized(layer: Layer) -> bool:
  """Whether a layer is weight-normalized."""
  return isinstance(layer, WeightNormed)


def kernel_name(layer: Layer) -> str:
  """The attribute that holds the weights of an `nnx` or `wn` layer."""
  return 'embedding' if isinstance(layer, nnx.Embed) else 'kernel'


def kernel_of(layer: Layer) -> nnx.Variable:
  """The variable that holds the weights of a plain layer, or v."""
  return getattr(layer, kernel_name(layer))


def masked_kernel(layer: Layer) -> jax.Array:
  """The kernel of an `nnx` or `wn` layer, with its mask applied."""
  kernel = kernel_of(layer)[...]
  mask = getattr(layer, 'mask', None)
  return kernel if mask is None else kernel * jnp.asarray(mask).astype(kernel.dtype)


def unit_axes(layer: Layer) -> tuple[int, ...]:
  """The axes of a layer's kernel that index units, as numbers from 0 up.

  In a stack of layers, made by `nnx.vmap` or `nnx.scan` over a constructor, leading axes index
  layers, and every layer's units are units of their own.

  Example::

    wn.unit_norm(layer.kernel[...], unit_axis=wn.unit_axes(layer))  # ‖v‖ of every unit

  Args:
    layer: `Linear`, `Conv`, `ConvTranspose`, `LinearGeneral`, `Einsum` or `Embed`, of `wn` or
      `nnx`.
  """
  axes = layer.unit_axis if isinstance(layer, WeightNormed) else default_unit_axis(layer)
  ndim = kernel_of(layer)[...].ndim
  return *range(ndim - own_ndim(layer)), *(ndim + axis for axis in axes)


def check_mask(layer: Layer) -> None:
  """Raises ValueError if the layer's mask is not a 0/1 array of the kernel's shape."""
  mask = getattr(layer, 'mask', None)
  if mask is None:
    return
  shape = kernel_of(layer)[...].shape
  if np.shape(mask) != shape:
    raise ValueError(f'mask must have the shape of the kernel, {shape}; got {np.shape(mask)}.')
  if not isinstance(mask, Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('mask must hold only 0 (weight removed) and 1 (weight kept).')
