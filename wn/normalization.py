"""Equation 2 of Salimans & Kingma (2016), as a pure function."""

import jax
import jax.numpy as jnp


def unit_norm(v: jax.Array, *, unit_axis: int = -1, eps: float = 1e-12) -> jax.Array:
  """‖v‖ of every output unit, in float32; 1 for a unit that is zero.

  Args:
    v: kernel of any rank ≥ 1.
    unit_axis: the axis of `v` that counts the output units. The norm runs over all other axes.
    eps: a unit with ‖v‖² ≤ `eps` counts as zero.

  Returns:
    [v.shape[unit_axis]] norms, float32 (float64 if `v` is).

  Raises:
    ValueError: `v` has no such axis.
  """
  v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
  squared_norm = jnp.sum(jnp.square(v), axis=_other_axes(v, unit_axis))
  # The inner `where` keeps the derivative of sqrt away from 0, where it is infinite.
  return jnp.sqrt(jnp.where(squared_norm <= eps, 1.0, squared_norm))


def weight_norm(
  v: jax.Array, g: jax.Array, *, unit_axis: int = -1, eps: float = 1e-12
) -> jax.Array:
  """w = (g / ‖v‖) v (Salimans & Kingma 2016, Eq. 2), computed in float32.

  The derivatives are those of Eq. 3: ∇g = ∇w·v / ‖v‖ and ∇v = (g / ‖v‖) (∇w − ∇g v / ‖v‖), so that
  v·∇v = 0 in every unit.

  A *zero unit*, one with ‖v‖² ≤ `eps`, has no direction. There ‖v‖ counts as the constant 1, so
  that w = g v (0 at v = 0), ∇g = ∇w·v (0 at v = 0) and ∇v = g ∇w: bounded by |g| |∇w|, and not
  zero, so that the unit can leave the origin. Units that a mask makes zero keep a zero gradient,
  because the mask multiplies ∇v as well. Outside that ball ‖w‖ = |g|, so the first step away from
  v = 0 takes ‖w‖ from 0 to |g|: to start a layer at zero, take a random v and g = 0 instead.

  Args:
    v: kernel of any rank ≥ 1 and any floating dtype.
    g: [v.shape[unit_axis]] scales, one per output unit.
    unit_axis: the axis of `v` that counts the output units. The norm runs over all other axes.
    eps: a unit with ‖v‖² ≤ `eps` is a zero unit.

  Returns:
    w, of the shape of `v`, in float32 (float64 if an argument is). Cast the result, never the
    arguments: a norm in bfloat16 is off by 0.2 %, and one in float16 overflows at 65,504. In
    float32 ‖v‖ must be below 1e19, where its square overflows.

  Raises:
    ValueError: `v` has no such axis, or `g` does not hold one scale per unit.
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
    raise ValueError(f'unit_axis={unit_axis} is no axis of v with shape {v.shape}.')
  unit_axis %= v.ndim
  return tuple(axis for axis in range(v.ndim) if axis != unit_axis)
