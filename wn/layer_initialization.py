"""Data-dependent initialization of one layer: Eq. 5–6 of Salimans & Kingma (2016)."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from wn import base
from wn.axes import Layer
from wn.base import assign
from wn.features import Features
from wn.normalization import in_one_program, norm_axes, unit_norm


def initialize(
  layer: Layer,
  name: str,
  init_scale: float,
  std_floor: float,
  axis_name: str | None,
  inputs: jax.Array,
  *args,
  **kwargs,
) -> jax.Array:
  """Eq. 5–6 for one layer: sets g (or the plain kernel) and b from the layer's input.

  Returns:
    For every output feature whether its std is now `init_scale`.
  """
  axes = base.unit_axes(layer)
  features = Features.of(_as_called(layer, *args, **kwargs))
  is_per_feature = set(axes) == set(features.kernel_axes)
  v = base.masked_kernel(layer)
  kernel = _unit_kernel(v, axes) if is_per_feature else base.weight(layer)
  t = features.pre_activations(layer, kernel, inputs, *args, **kwargs)
  if t.size == 0:
    raise ValueError(f'{name}: the batch is empty, as its inputs have shape {inputs.shape}.')
  mask = getattr(layer, 'mask', None)
  found = _measure(
    t,
    v,
    layer.get_scale() if base.is_normalized(layer) else None,
    None if mask is None else jnp.asarray(mask),
    init_scale,
    std_floor,
    features=features,
    axes=axes,
    axis_name=axis_name,
  )
  is_finite = check_finite(name, found.num_bad, found.usual.size)
  _assign_if(is_finite, layer, found.g, found.bias, axes)
  warn_if_any(
    found.num_low,
    f'{name}: {{count}} of {found.num_units} units have a standard deviation below '
    f'std_floor={std_floor:g}, which was used instead. Their inputs are constant or the '
    'batch is too small.',
  )
  warn_if_any(
    found.num_zero,
    f'{name}: {{count}} of {found.num_units} units have a zero kernel and cannot be normalized.',
  )
  return found.usual


def _as_called(layer: Layer, einsum_str: Any = None, *_: Any, **__: Any) -> Layer:
  """The layer of a call with these arguments: an `Einsum` takes another string there."""
  if not isinstance(layer, nnx.Einsum) or einsum_str is None:
    return layer
  return base.replace(layer, einsum_str=einsum_str)


@functools.partial(in_one_program, static_argnums=1)
def _unit_kernel(v: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """v/‖v‖."""
  return v / jnp.expand_dims(unit_norm(v, unit_axis=axes), norm_axes(v.ndim, axes))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Measured:
  """What a layer's pre-activations say.

  Attributes:
    g: the new scales, in the order of the kernel.
    bias: the new biases, in the order of the output.
    usual: for every output feature whether its standard deviation is now the one asked for.
    num_bad: number of features whose statistics are not finite.
    num_low: number of units with a standard deviation below the floor.
    num_zero: number of units with a zero kernel that are not fully masked.
    num_units: number of units that the last two are of.
  """

  g: jax.Array
  bias: jax.Array
  usual: jax.Array
  num_bad: jax.Array
  num_low: jax.Array
  num_zero: jax.Array
  num_units: int = dataclasses.field(metadata={'static': True})


@functools.partial(in_one_program, static_argnames=('features', 'axes', 'axis_name'))
def _measure(
  t: jax.Array,
  v: jax.Array,
  old_g: jax.Array | None,
  mask: jax.Array | None,
  init_scale: float,
  std_floor: float,
  *,
  features: Features,
  axes: tuple[int, ...],
  axis_name: str | None,
) -> _Measured:
  """Eq. 5–6 from the pre-activations t; `old_g` is None in a plain layer."""
  other_axes = norm_axes(v.ndim, axes)
  is_per_feature = set(axes) == set(features.kernel_axes)
  mean, std = features.moments(t, axis_name)
  num_bad = jnp.sum(~jnp.isfinite(mean) | ~jnp.isfinite(std))
  is_zero = jnp.all(v == 0, axis=other_axes)  # w = 0 for any g
  stays_zero = is_zero if old_g is None else old_g == 0
  if is_per_feature:
    std = features.in_kernel_order(std)
  else:
    std = jnp.sqrt(jnp.mean(jnp.square(std)))  # one factor for all units
    is_zero, stays_zero = jnp.all(is_zero | stays_zero), jnp.zeros((), bool)
  factor = init_scale / jnp.where(is_zero, 1.0, jnp.maximum(std, std_floor))

  if is_per_feature:
    g = factor if old_g is None else jnp.where(stays_zero, 0.0, factor)
    by_feature = features.in_output_order(g)
  else:
    old_g = unit_norm(v, unit_axis=axes) if old_g is None else old_g
    g, by_feature = factor * old_g, factor

  is_low = (std < std_floor) & ~is_zero & ~stays_zero
  is_odd = is_zero | stays_zero
  usual = ~(is_low | is_odd)
  return _Measured(
    g=g,
    bias=-by_feature * mean,
    usual=features.in_output_order(usual) if is_per_feature else jnp.zeros(mean.shape, bool),
    num_bad=num_bad,
    num_low=jnp.sum(is_low),
    num_zero=jnp.sum(is_odd & ~fully_masked(mask, other_axes, is_zero)),
    num_units=std.size,
  )


def _assign_if(
  is_finite: jax.Array | bool,
  layer: Layer,
  g: jax.Array,
  bias: jax.Array,
  axes: tuple[int, ...],
) -> None:
  """Stores g (in a plain layer: the weight with norm g) and the bias, if `is_finite`."""

  def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
    return new if is_finite is True else jnp.where(is_finite, new, old)

  if base.is_normalized(layer):
    layer.set_scale(chosen(g, layer.get_scale()))
  else:
    kernel = layer.kernel[...]
    assign(layer.kernel, chosen(_rescaled(kernel, base.masked_kernel(layer), g, axes), kernel))
  if layer.bias is not None:
    old = layer.bias[...]
    assign(layer.bias, chosen(bias.reshape(old.shape), old))


@functools.partial(in_one_program, static_argnums=3)
def _rescaled(kernel: jax.Array, v: jax.Array, g: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """The kernel with norm g, where v is the kernel with its mask applied."""
  factor = g / unit_norm(v, unit_axis=axes)
  return kernel * jnp.expand_dims(factor, norm_axes(v.ndim, axes))


def check_finite(name: str, num_bad: jax.Array, size: int) -> jax.Array | bool:
  """Whether no statistics are bad: True, an error, or, if traced, an array, with a warning.

  Args:
    name: of the layer.
    num_bad: number of units whose statistics are not finite.
    size: number of units.
  """
  if not isinstance(num_bad, Tracer):
    if num_bad:
      raise ValueError(
        f'{name}: the pre-activations of {int(num_bad)} of {size} units are not '
        'finite; nothing was changed. Check the batch and the parameters for NaN and inf.'
      )
    return True
  warn_if_any(
    num_bad,
    f'{name}: the pre-activations of {{count}} of {size} units are not finite; the layer '
    'keeps what it had.',
  )
  return num_bad == 0


def check_own_forward(name: str, init_scale: float, usual: jax.Array, outputs: Any) -> None:
  """Warns if a layer with its own forward pass does not return what the initialization aims at."""
  ndim = usual.ndim
  if isinstance(outputs, Tracer) or getattr(outputs, 'shape', ())[-ndim:] != usual.shape:
    return
  std = jnp.std(outputs.astype(jnp.float32), axis=tuple(range(outputs.ndim - ndim)))
  is_off = usual & (jnp.abs(std / init_scale - 1) > 0.05)
  warn_if_any(
    jnp.sum(is_off),
    f'{name}: {{count}} of {std.size} units do not have the standard deviation {init_scale:g}, as '
    'the layer has a forward pass of its own. Initialize it yourself.',
  )


def fully_masked(
  mask: jax.Array | None, other_axes: tuple[int, ...], is_zero: jax.Array
) -> jax.Array:
  """True for units whose weights are all masked, shaped like `is_zero`."""
  if mask is None:
    return jnp.zeros(is_zero.shape, bool)
  fully = jnp.all(mask == 0, axis=other_axes)
  return fully if fully.shape == is_zero.shape else jnp.all(fully)


def warn_if_any(count: jax.Array, message: str) -> None:
  """Warns if the number of units affected is not 0; works inside `jax.jit`."""

  def warn(count):
    if count:
      warnings.warn('data_dependent_init: ' + message.format(count=int(count)), stacklevel=2)

  if isinstance(count, Tracer):
    jax.debug.callback(warn, count)
  else:
    warn(count)
