"""Equation 2 of Salimans & Kingma (2016), as a pure function."""

import jax
import jax.numpy as jnp


def unit_norm(v: jax.Array, *, unit_axis: int = -1, eps: float = 1e-12) -> jax.Array:
  """‖v‖ of every output unit, in float32; 1 for zero units.

  Args:
    v: kernel of rank ≥ 1.
    unit_axis: axis of `v` that indexes output units; the norm is over all others.
    eps: a unit with ‖v‖² ≤ `eps` counts as zero.

  Returns:
    [v.shape[unit_axis]] norms, float32 (float64 if `v` is).

  Raises:
    ValueError: `unit_axis` is out of range.
  """
  v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
  squared_norm = jnp.sum(jnp.square(v), axis=_other_axes(v, unit_axis))
  # The `where` is inside sqrt because the derivative of sqrt at 0 is infinite.
  return jnp.sqrt(jnp.where(squared_norm <= eps, 1.0, squared_norm))


def weight_norm(
  v: jax.Array, g: jax.Array, *, unit_axis: int = -1, eps: float = 1e-12
) -> jax.Array:
  """w = (g / ‖v‖) v (Salimans & Kingma 2016, Eq. 2), computed in float32.

  The derivatives are those of Eq. 3: ∇g = ∇w·v / ‖v‖ and ∇v = (g / ‖v‖) (∇w − ∇g v / ‖v‖), so
  v·∇v = 0 in every unit.

  A *zero unit*, with ‖v‖² ≤ `eps`, has no direction. Its ‖v‖ is replaced by the constant 1, so
  w = g v (0 at v = 0), ∇g = ∇w·v (0 at v = 0) and ∇v = g ∇w, which is bounded by |g| |∇w| and lets
  the unit leave the origin. Fully masked units keep a zero gradient, as the mask also multiplies
  ∇v. The first step away from v = 0 takes ‖w‖ from 0 to |g|; to start a layer at zero, use a
  random v and g = 0 instead.

  Args:
    v: kernel of rank ≥ 1 and any floating dtype.
    g: [v.shape[unit_axis]] scales.
    unit_axis: axis of `v` that indexes output units; the norm is over all others.
    eps: a unit with ‖v‖² ≤ `eps` is a zero unit.

  Returns:
    w, shaped like `v`, in float32 (float64 if an argument is). Cast the result, not the arguments:
    a norm in bfloat16 is off by 0.2 %, and one in float16 overflows at 65,504. In float32 ‖v‖ must
    be below 1e19, where its square overflows.

  Raises:
    ValueError: `unit_axis` is out of range, or `g` does not have one scale per unit.
  """
  other_axes = _other_axes(v, unit_axis)
  if g.shape != (v.shape[unit_axis],):
    raise ValueError(
      f'g must have shape ({v.shape[unit_axis]},), one scale per index of axis {unit_axis} of v '
      f'with shape {v.shape}; got {g.shape}.'
    )
  dtype = jnp.promote_types(jnp.promote_types(v.dtype, g.dtype), jnp.float32)
  v = v.astype(dtype)
  scale = g.astype(dtype) / unit_norm(v, unit_axis=unit_axis, eps=eps)
  return jnp.expand_dims(scale, other_axes) * v


def _other_axes(v: jax.Array, unit_axis: int) -> tuple[int, ...]:
  if not -v.ndim <= unit_axis < v.ndim:
    raise ValueError(f'unit_axis={unit_axis} is out of range for v with shape {v.shape}.')
  unit_axis %= v.ndim
  return tuple(axis for axis in range(v.ndim) if axis != unit_axis)
