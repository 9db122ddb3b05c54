"""Equation 2 of Salimans & Kingma (2016), as a pure function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

UnitAxis = int | tuple[int, ...] | None


def unit_norm(v: jax.Array, *, unit_axis: UnitAxis = -1, eps: float = 1e-30) -> jax.Array:
  """‖v‖ of every unit, in float32; 1 for zero units.

  Example::

    norms = wn.unit_norm(v)  # v [3, 3, 64, 96], norms [96]

  Args:
    v: kernel of any floating or complex dtype.
    unit_axis: axis or axes of `v` that index units, each of which has a norm of its own over all
      other axes; None: one norm for the whole of `v`.
    eps: a unit with ‖v‖² ≤ `eps` counts as zero.

  Returns:
    Norms, float32 (float64 for float64 and complex128), shaped like `v` without the axes of the
    norm: (v.shape[-1],) by default, () for None.

  Raises:
    ValueError: `unit_axis` is out of range or names an axis twice.
  """
  return _unit_norm(v, eps, axes=norm_axes(v.ndim, unit_axis))


# Eagerly one program in place of several; inside another program as if it were not there.
in_one_program = functools.partial(jax.jit, inline=True)


@functools.partial(in_one_program, static_argnames='axes')
def _unit_norm(v: jax.Array, eps: float, *, axes: tuple[int, ...]) -> jax.Array:
  v = v.astype(compute_dtype(v.dtype))
  square = jnp.square(v.real) + jnp.square(v.imag) if jnp.iscomplexobj(v) else jnp.square(v)
  squared_norm = jnp.sum(square, axis=axes)
  # The `where` is inside sqrt because the derivative of sqrt at 0 is infinite.
  return jnp.sqrt(jnp.where(squared_norm <= eps, 1.0, squared_norm))


def weight_norm(
  v: jax.Array, g: jax.Array, *, unit_axis: UnitAxis = -1, eps: float = 1e-30
) -> jax.Array:
  """w = (g / ‖v‖) v (Salimans & Kingma 2016, Eq. 2), computed in float32.

  The derivatives are those of Eq. 3: ∇g = ∇w·v / ‖v‖ and ∇v = (g / ‖v‖) (∇w − ∇g v / ‖v‖), so
  v·∇v = 0 in every unit.

  A *zero unit*, with ‖v‖² ≤ `eps`, has no direction. Its ‖v‖ is replaced by the constant 1, so
  w = g v (0 at v = 0), ∇g = ∇w·v (0 at v = 0) and ∇v = g ∇w, which is bounded by |g| |∇w| and lets
  the unit leave the origin. Fully masked units keep a zero gradient, as the mask also multiplies
  ∇v. The first step away from v = 0 takes ‖w‖ from 0 to |g|; to start a unit at zero, use a random
  v and g = 0 instead, as the layers of this library do.

  Example::

    w = wn.weight_norm(v, g)                    # v [in, out], g [out]
    w = wn.weight_norm(v, g, unit_axis=(0, 2))  # v [heads, in, out], g [heads, out]
    w = wn.weight_norm(v, g, unit_axis=None)    # g scalar: one norm for the whole kernel

  Args:
    v: kernel of any floating or complex dtype.
    g: real scales, one per unit, shaped like `v` without the axes of the norm.
    unit_axis: axis or axes of `v` that index units: PyTorch's `dim`; None: one g for the kernel.
    eps: a unit with ‖v‖² ≤ `eps` is a zero unit. The default is far below any ‖v‖ in use.

  Returns:
    w, shaped like `v`, in float32 (float64 if an argument is; complex for complex `v`). Cast the
    result, not the arguments: a norm in bfloat16 is off by 0.2 %, and one in float16 overflows at
    65,504. In float32 ‖v‖ must be below 1e19, where its square overflows.

  Raises:
    ValueError: `unit_axis` is out of range or names an axis twice, or `g` does not have one scale
      per unit.
    TypeError: `g` is complex.
  """
  g = jnp.asarray(g)
  other_axes = norm_axes(v.ndim, unit_axis)
  shape = tuple(size for axis, size in enumerate(v.shape) if axis not in other_axes)
  if g.shape != shape:
    raise ValueError(
      f'g must have shape {shape}, one scale per index of unit_axis={unit_axis} of v with shape '
      f'{v.shape}; got {g.shape}.'
    )
  if jnp.iscomplexobj(g):
    raise TypeError(f'g must be real, as it is a norm; got {g.dtype}.')
  return _weight_norm(v, g, eps, axes=other_axes)


@functools.partial(in_one_program, static_argnames='axes')
def _weight_norm(v: jax.Array, g: jax.Array, eps: float, *, axes: tuple[int, ...]) -> jax.Array:
  v = v.astype(compute_dtype(v.dtype, g.dtype))
  scale = g.astype(v.real.dtype) / _unit_norm(v, eps, axes=axes)
  return jnp.expand_dims(scale, axes) * v


def norm_axes(ndim: int, unit_axis: UnitAxis) -> tuple[int, ...]:
  """The axes over which the norm goes: all that are not in `unit_axis`."""
  axes = () if unit_axis is None else unit_axis if isinstance(unit_axis, tuple) else (unit_axis,)
  if not all(isinstance(axis, int | np.integer) for axis in axes):
    raise ValueError(f'unit_axis must be an int, a tuple of ints or None; got {unit_axis!r}.')
  if any(not -ndim <= axis < ndim for axis in axes):
    raise ValueError(f'unit_axis={unit_axis} is out of range for a kernel of {ndim} axes.')
  units = [axis % ndim for axis in axes]
  if len(set(units)) < len(units):
    raise ValueError(f'unit_axis={unit_axis} names an axis twice for a kernel of {ndim} axes.')
  return tuple(axis for axis in range(ndim) if axis not in units)


def compute_dtype(*dtypes: jnp.dtype) -> jnp.dtype:
  """float32, or wider if any argument is; complex if any argument is."""
  # Not `promote_types` alone: it refuses to promote 8-bit floats.
  wide = [dtype for dtype in dtypes if jnp.dtype(dtype).itemsize > 1]
  result = jnp.dtype(jnp.float32)
  for dtype in wide:
    result = jnp.promote_types(result, dtype)
  return result
