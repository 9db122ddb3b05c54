"""Data-dependent initialization of one layer: Eq. 5–6 of Salimans & Kingma (2016)."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from wn import base
from wn.axes import Layer
from wn.base import assign
from wn.features import Features
from wn.normalization import norm_axes, unit_norm


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
  v = base.masked_kernel(layer)
  other_axes = norm_axes(v.ndim, axes)
  features = Features.of(layer)
  is_per_feature = set(axes) == set(features.kernel_axes)
  if is_per_feature:
    kernel = v / jnp.expand_dims(unit_norm(v, unit_axis=axes), other_axes)
  else:
    kernel = base.weight(layer)
  t = features.pre_activations(layer, kernel, inputs, *args, **kwargs)
  if t.size == 0:
    raise ValueError(f'{name}: the batch is empty, as its inputs have shape {inputs.shape}.')
  mean, std = features.moments(t, axis_name)
  if not is_per_feature:
    std = jnp.sqrt(jnp.mean(jnp.square(std)))  # one factor for all units
  is_finite = check_finite(name, mean, std)

  is_zero = jnp.all(v == 0, axis=other_axes)  # w = 0 for any g
  stays_zero = (layer.get_scale() == 0) if base.is_normalized(layer) else is_zero
  if not is_per_feature:
    is_zero, stays_zero = jnp.all(is_zero | stays_zero), jnp.zeros((), bool)
  else:
    std = features.in_kernel_order(std)
  factor = init_scale / jnp.where(is_zero, 1.0, jnp.maximum(std, std_floor))

  if is_per_feature:
    g = factor if not base.is_normalized(layer) else jnp.where(stays_zero, 0.0, factor)
    by_feature = features.in_output_order(g)
  else:
    g = factor * layer.get_scale()
    by_feature = factor
  _assign_if(is_finite, layer, g, -by_feature * mean, other_axes)

  is_low = (std < std_floor) & ~is_zero & ~stays_zero
  warn_if_any(
    is_low,
    f'{name}: {{count}} of {std.size} units have a standard deviation below '
    f'std_floor={std_floor:g}, which was used instead. Their inputs are constant or the '
    'batch is too small.',
  )
  warn_if_any(
    (is_zero | stays_zero) & ~fully_masked(layer, other_axes, is_zero),
    f'{name}: {{count}} of {std.size} units have a zero kernel and cannot be normalized.',
  )
  usual = ~(is_low | is_zero | stays_zero)
  return features.in_output_order(usual) if is_per_feature else jnp.zeros(mean.shape, bool)


def _assign_if(
  is_finite: jax.Array | bool,
  layer: Layer,
  g: jax.Array,
  bias: jax.Array,
  other_axes: tuple[int, ...],
) -> None:
  """Stores g (in a plain layer: the weight with norm g) and the bias, if `is_finite`."""

  def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
    return new if is_finite is True else jnp.where(is_finite, new, old)

  if base.is_normalized(layer):
    layer.set_scale(chosen(g, layer.get_scale()))
  else:
    kernel = layer.kernel[...]
    norm = unit_norm(base.masked_kernel(layer), unit_axis=base.unit_axes(layer))
    assign(layer.kernel, chosen(kernel * jnp.expand_dims(g / norm, other_axes), kernel))
  if layer.bias is not None:
    old = layer.bias[...]
    assign(layer.bias, chosen(bias.reshape(old.shape), old))


def check_finite(name: str, mean: jax.Array, std: jax.Array) -> jax.Array | bool:
  """Whether the statistics are finite: True, an error, or, if traced, an array, with a warning."""
  is_bad = ~jnp.isfinite(mean) | ~jnp.isfinite(std)
  if not isinstance(is_bad, Tracer):
    if is_bad.any():
      raise ValueError(
        f'{name}: the pre-activations of {int(is_bad.sum())} of {is_bad.size} units are not '
        'finite; nothing was changed. Check the batch and the parameters for NaN and inf.'
      )
    return True
  warn_if_any(
    is_bad,
    f'{name}: the pre-activations of {{count}} of {is_bad.size} units are not finite; the layer '
    'keeps what it had.',
  )
  return ~jnp.any(is_bad)


def check_own_forward(name: str, init_scale: float, usual: jax.Array, outputs: Any) -> None:
  """Warns if a layer with its own forward pass does not return what the initialization aims at."""
  ndim = usual.ndim
  if isinstance(outputs, Tracer) or getattr(outputs, 'shape', ())[-ndim:] != usual.shape:
    return
  std = jnp.std(outputs.astype(jnp.float32), axis=tuple(range(outputs.ndim - ndim)))
  is_off = usual & (jnp.abs(std / init_scale - 1) > 0.05)
  warn_if_any(
    is_off,
    f'{name}: {{count}} of {std.size} units do not have the standard deviation {init_scale:g}, as '
    'the layer has a forward pass of its own. Initialize it yourself.',
  )


def fully_masked(layer: Layer, other_axes: tuple[int, ...], is_zero: jax.Array) -> jax.Array:
  """True for units whose weights are all masked, shaped like `is_zero`."""
  mask = getattr(layer, 'mask', None)
  if mask is None:
    return jnp.zeros(is_zero.shape, bool)
  fully = jnp.all(jnp.asarray(mask) == 0, axis=other_axes)
  return fully if fully.shape == is_zero.shape else jnp.all(fully)


def warn_if_any(is_affected: jax.Array, message: str) -> None:
  """Warns if any unit is affected; works inside `jax.jit`."""

  def warn(count):
    if count:
      warnings.warn('data_dependent_init: ' + message.format(count=int(count)), stacklevel=2)

  count = jnp.sum(is_affected)
  if isinstance(count, Tracer):
    jax.debug.callback(warn, count)
  else:
    warn(count)
