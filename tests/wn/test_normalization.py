"""Eq. 2 and its derivatives (Eq. 3) against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wn import unit_norm, weight_norm

SHAPES = ((5,), (4, 3), (2, 4, 3), (3, 2, 4, 5), (2, 3, 2, 3, 2))
SHAPES_AND_AXES = [(shape, axis) for shape in SHAPES for axis in range(-len(shape), len(shape))]


def random_inputs(shape, unit_axis, seed=0):
  """v, g and an incoming gradient ∇w, float32; half of the g are negative."""
  rng = np.random.default_rng(seed)
  v = rng.normal(size=shape).astype(np.float32)
  g = rng.normal(size=shape[unit_axis]).astype(np.float32)
  dw = rng.normal(size=shape).astype(np.float32)
  return v, g, dw


def by_unit(v, unit_axis):
  """[units, all else] in float64."""
  v = np.moveaxis(np.asarray(v).astype(np.float64), unit_axis, 0)
  return v.reshape(v.shape[0], -1)


def eq2(v, g, unit_axis):
  """w by unit."""
  return np.stack(
    [g_i / np.sqrt(np.sum(v_i**2)) * v_i for v_i, g_i in zip(by_unit(v, unit_axis), g)]
  )


def eq3(v, g, dw, unit_axis):
  """∇v by unit, and ∇g."""
  dvs, dgs = [], []
  for v_i, g_i, dw_i in zip(by_unit(v, unit_axis), g, by_unit(dw, unit_axis)):
    norm = np.sqrt(np.sum(v_i**2))
    dg = np.sum(dw_i * v_i) / norm
    dvs.append(g_i / norm * dw_i - g_i * dg / norm**2 * v_i)
    dgs.append(dg)
  return np.stack(dvs), np.array(dgs)


def gradients(v, g, dw, unit_axis=-1):
  """∇v and ∇g of the code under test."""
  _, vjp = jax.vjp(lambda v, g: weight_norm(v, g, unit_axis=unit_axis), v, g)
  return vjp(jnp.asarray(dw))


def assert_close(actual, expected, tolerance):
  """Equal to a tolerance relative to the largest element."""
  actual = np.asarray(actual).astype(np.float64)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(('shape', 'unit_axis'), SHAPES_AND_AXES)
def test_value_is_eq2(shape, unit_axis):
  v, g, _ = random_inputs(shape, unit_axis)
  w = weight_norm(jnp.asarray(v), jnp.asarray(g), unit_axis=unit_axis)
  assert w.shape == shape
  np.testing.assert_allclose(by_unit(w, unit_axis), eq2(v, g, unit_axis), rtol=1e-6)


@pytest.mark.parametrize(
  ('shape', 'unit_axis'), [(shape, axis) for shape, axis in SHAPES_AND_AXES if axis >= 0]
)
def test_gradients_are_eq3(shape, unit_axis):
  v, g, dw = random_inputs(shape, unit_axis)
  dv, dg = gradients(jnp.asarray(v), jnp.asarray(g), dw, unit_axis)
  expected_dv, expected_dg = eq3(v, g, dw, unit_axis)
  if len(shape) == 1:  # w = g sign(v): no direction to learn
    np.testing.assert_allclose(dv, np.zeros(shape), atol=1e-5)
  else:
    assert_close(by_unit(dv, unit_axis), expected_dv, 2e-6)
  assert_close(dg, expected_dg, 2e-6)


@pytest.mark.parametrize(('shape', 'unit_axis'), [((4, 3), -1), ((4, 3), 0), ((2, 3, 4, 2), -2)])
def test_gradients_are_central_finite_differences_of_eq2(shape, unit_axis):
  v, g, dw = random_inputs(shape, unit_axis)
  loss = lambda v, g: np.sum(eq2(v, g, unit_axis) * by_unit(dw, unit_axis))

  def finite_differences(f, x, h=1e-6):
    x = x.astype(np.float64)
    slope = np.zeros_like(x)
    for i in np.ndindex(x.shape):
      step = np.zeros_like(x)
      step[i] = h
      slope[i] = (f(x + step) - f(x - step)) / (2 * h)
    return slope

  dv, dg = gradients(jnp.asarray(v), jnp.asarray(g), dw, unit_axis)
  assert_close(dv, finite_differences(lambda v: loss(v, g), v), 2e-6)
  assert_close(dg, finite_differences(lambda g: loss(v, g), g), 2e-6)


@pytest.mark.parametrize('scale_of_v', [1e-3, 1.0, 1e3])
@pytest.mark.parametrize('unit_axis', [0, 1, 2, 3])
def test_gradient_of_v_is_orthogonal_to_v_in_every_unit(unit_axis, scale_of_v):
  v, g, dw = random_inputs((3, 4, 5, 6), unit_axis)
  v *= np.float32(scale_of_v)
  dv, _ = gradients(jnp.asarray(v), jnp.asarray(g), dw, unit_axis)
  v, dv = by_unit(v, unit_axis), by_unit(dv, unit_axis)
  cosine = np.sum(v * dv, 1) / (np.linalg.norm(v, axis=1) * np.linalg.norm(dv, axis=1))
  np.testing.assert_allclose(cosine, 0, atol=1e-6)


@pytest.mark.parametrize('norm_of_v', [0.0, 1e-20, 0.9e-15])
def test_zero_unit_counts_its_norm_as_one(norm_of_v):
  """‖v‖² ≤ eps: w = g v, ∇g = ∇w·v, ∇v = g ∇w; the other units don't notice."""
  v, g, dw = random_inputs((4, 3), -1)
  v[:, 1] *= norm_of_v / np.linalg.norm(v[:, 1])
  w = np.asarray(weight_norm(jnp.asarray(v), jnp.asarray(g)))
  dv, dg = map(np.asarray, gradients(jnp.asarray(v), jnp.asarray(g), dw))

  np.testing.assert_allclose(w[:, 1], g[1] * v[:, 1], rtol=1e-6)
  np.testing.assert_allclose(dg[1], dw[:, 1] @ v[:, 1], rtol=1e-5)
  np.testing.assert_allclose(dv[:, 1], g[1] * dw[:, 1], rtol=1e-6)
  assert np.linalg.norm(dv[:, 1]) <= abs(g[1]) * np.linalg.norm(dw[:, 1]) * (1 + 1e-6)
  if norm_of_v == 0:
    assert not w[:, 1].any()
    assert dg[1] == 0

  others = [0, 2]
  expected_dv, expected_dg = eq3(v[:, others], g[others], dw[:, others], -1)
  np.testing.assert_allclose(by_unit(w, -1)[others], eq2(v[:, others], g[others], -1), rtol=1e-6)
  assert_close(by_unit(dv, -1)[others], expected_dv, 2e-6)
  assert_close(dg[others], expected_dg, 2e-6)


def test_tiny_unit_just_above_eps_follows_the_equations():
  v, g, dw = random_inputs((4, 3), -1)
  v *= np.float32(1.1e-6) / np.linalg.norm(v, axis=0, keepdims=True)
  np.testing.assert_allclose(
    by_unit(weight_norm(jnp.asarray(v), jnp.asarray(g)), -1), eq2(v, g, -1), rtol=1e-6
  )
  dv, dg = gradients(jnp.asarray(v), jnp.asarray(g), dw)
  expected_dv, expected_dg = eq3(v, g, dw, -1)
  assert_close(by_unit(dv, -1), expected_dv, 2e-6)
  assert_close(dg, expected_dg, 2e-6)


def test_eps_sets_which_units_are_zero_units():
  v = jnp.asarray([[0.3, 3.0], [0.4, 4.0]])  # norms 0.5 and 5
  w = weight_norm(v, jnp.asarray([2.0, 2.0]), eps=1.0)
  np.testing.assert_allclose(w, [[0.6, 1.2], [0.8, 1.6]], rtol=1e-6)


DTYPES_AND_SIZES = [
  (jnp.float32, 1e15),
  (jnp.bfloat16, 0.05),
  (jnp.bfloat16, 1e15),
  (jnp.float16, 0.05),
  (jnp.float16, 6e4),  # ‖v‖ ≈ 1.5e6: neither it nor its square fits into float16
]


def large_inputs(dtype, size):
  v, g, _ = random_inputs((1000, 4), -1)
  return jnp.asarray(size * np.sign(v) * (1 - 0.3 * np.tanh(np.abs(v))), dtype), g


@pytest.mark.parametrize(('dtype', 'size'), DTYPES_AND_SIZES)
@pytest.mark.parametrize('g_dtype', [jnp.float32, jnp.bfloat16])
def test_result_is_float32_and_accurate_for_every_input_dtype(dtype, size, g_dtype):
  v, g = large_inputs(dtype, size)
  g = jnp.asarray(g, g_dtype)
  w = weight_norm(v, g)
  assert w.dtype == jnp.float32
  expected = eq2(v, np.asarray(g).astype(np.float64), -1)
  np.testing.assert_allclose(by_unit(w, -1), expected, rtol=1e-6)


@pytest.mark.parametrize(('dtype', 'size'), DTYPES_AND_SIZES)
def test_unit_norm_is_float32_and_accurate_for_every_input_dtype(dtype, size):
  v, _ = large_inputs(dtype, size)
  norm = unit_norm(v)
  assert norm.dtype == jnp.float32
  np.testing.assert_allclose(norm, np.linalg.norm(by_unit(v, -1), axis=1), rtol=1e-6)


def test_unit_norm_of_a_zero_unit_is_one():
  v = jnp.asarray([[3.0, 0.0, 1e-17], [4.0, 0.0, 0.0]])
  np.testing.assert_allclose(unit_norm(v), [5.0, 1.0, 1.0], rtol=1e-6)
  np.testing.assert_allclose(unit_norm(v.T, unit_axis=0), [5.0, 1.0, 1.0], rtol=1e-6)


def test_gradients_have_the_dtypes_of_the_arguments():
  v, g, dw = random_inputs((50, 3), -1)
  v, g = jnp.asarray(v, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
  dv, dg = gradients(v, g, dw)
  assert dv.dtype == dg.dtype == jnp.bfloat16
  expected_dv, expected_dg = eq3(v, np.asarray(g).astype(np.float64), dw, -1)
  assert_close(by_unit(dv, -1), expected_dv, 2**-8)
  assert_close(dg, expected_dg, 2**-8)


def test_float64_stays_float64():
  with jax.enable_x64(True):
    v, g, _ = random_inputs((4, 3), -1)
    w = weight_norm(jnp.asarray(v, jnp.float64), jnp.asarray(g))
    assert w.dtype == jnp.float64
    np.testing.assert_allclose(by_unit(w, -1), eq2(v, g, -1), rtol=1e-14)


@pytest.mark.parametrize('g_shape', [(3,), (1,), (1, 4), (4, 1), ()])
def test_wrong_shape_of_g_is_an_error_that_names_both_shapes(g_shape):
  with pytest.raises(ValueError) as error:
    weight_norm(jnp.ones((3, 4)), jnp.ones(g_shape))
  assert '(3, 4)' in str(error.value)
  assert str(g_shape) in str(error.value)


def test_works_under_jit():
  v, g, dw = random_inputs((2, 4, 3), -2)
  w = jax.jit(weight_norm, static_argnames='unit_axis')(v, g, unit_axis=-2)
  np.testing.assert_allclose(by_unit(w, -2), eq2(v, g, -2), rtol=1e-6)
  dv, dg = jax.jit(gradients, static_argnames='unit_axis')(v, g, dw, unit_axis=-2)
  expected_dv, expected_dg = eq3(v, g, dw, -2)
  assert_close(by_unit(dv, -2), expected_dv, 2e-6)
  assert_close(dg, expected_dg, 2e-6)


def test_works_under_vmap():
  vs, gs, dws = map(np.stack, zip(*(random_inputs((4, 3), -1, seed) for seed in range(5))))
  ws = jax.vmap(weight_norm)(jnp.asarray(vs), jnp.asarray(gs))
  dvs, dgs = jax.vmap(gradients)(jnp.asarray(vs), jnp.asarray(gs), jnp.asarray(dws))
  for v, g, dw, w, dv, dg in zip(vs, gs, dws, ws, dvs, dgs):
    expected_dv, expected_dg = eq3(v, g, dw, -1)
    np.testing.assert_allclose(by_unit(w, -1), eq2(v, g, -1), rtol=1e-6)
    assert_close(by_unit(dv, -1), expected_dv, 2e-6)
    assert_close(dg, expected_dg, 2e-6)
