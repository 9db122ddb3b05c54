"""How g is stored in `scale`, and where it starts."""

import functools
import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from wn.normalization import (
  UnitAxis,
  compute_dtype,
  in_one_program,
  norm_axes,
  unit_norm,
)


def start_at(
  v: jax.Array, axes: UnitAxis, log_scale: float, name: str, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """(g, v) with which (g/‖v‖) v is the given v, and can be trained.

  A unit of zeros would jump from 0 to ‖w‖ = g in its first step, however small the step. It gets a
  random direction of norm 1 and g = 0 instead, with which it starts at w = 0 and trains as it
  should (a fully masked unit keeps v = 0 and g = 1).
  """
  other_axes = norm_axes(v.ndim, axes)
  g, is_zero, any_zero = _measured(v, None if mask is None else jnp.asarray(mask), other_axes)
  is_traced = isinstance(any_zero, Tracer)
  if not is_traced and not any_zero:
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


@functools.partial(in_one_program, static_argnums=2)
def _measured(
  v: jax.Array, mask: jax.Array | None, other_axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """‖v‖ of every unit, whether it is zero but not fully masked, and whether any is."""
  masked = v if mask is None else v * mask.astype(v.dtype)
  units = tuple(axis for axis in range(v.ndim) if axis not in other_axes)
  is_zero = jnp.all(masked == 0, axis=other_axes)
  if mask is not None:
    is_zero &= jnp.any(mask != 0, axis=other_axes)
  return unit_norm(masked, unit_axis=units), is_zero, jnp.any(is_zero)


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
) -> nnx.Variable[jax.Array]:
  """The parameter `scale`, with the kernel's metadata, its sharding reduced to `axes`.

  `scale` has the type of the kernel, which may keep both from being trained.
  """
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
  scale = nnx.Param(stored_scale(g, log_scale).astype(dtype), **{**inherited, **metadata})
  if kernel.type is nnx.Param:
    return scale
  # Not by its constructor, which may take other arguments.
  return kernel.type.from_metadata(scale.get_raw_value(), scale.get_metadata())


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
