"""Complex, narrow and wide parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def complex_random(*shape, seed=0):
  return random(*shape, seed=seed) + 1j * random(*shape, seed=seed + 100)


def complex_init(key, shape, dtype):
  del key
  return jnp.asarray(complex_random(*shape), dtype)


def eq2(v, g):
  """w per unit of the last axis, in the widest dtype."""
  v = np.asarray(v).astype(np.complex128 if np.iscomplexobj(v) else np.float64)
  norm = np.sqrt(np.sum(np.abs(v) ** 2, tuple(range(v.ndim - 1))))
  return np.asarray(g).astype(np.float64) * v / norm


def relative(actual, expected):
  wide = lambda x: np.asarray(x).astype(np.complex128)
  return np.abs(wide(actual) - wide(expected)).max() / np.abs(wide(expected)).max()


# Complex.


def complex_linear(**kwargs):
  arguments = dict(param_dtype=jnp.complex64, kernel_init=complex_init, rngs=nnx.Rngs(0))
  return wn.Linear(4, 3, **arguments, **kwargs)


@pytest.mark.parametrize('log_scale', [False, 2.0])
def test_complex_layer_has_real_scales_and_eq_2(log_scale):
  layer = complex_linear(log_scale=log_scale)
  assert layer.scale.dtype == jnp.float32
  v = complex_random(4, 3)
  norm = np.sqrt(np.sum(v.real**2 + v.imag**2, 0))
  np.testing.assert_allclose(layer.get_scale(), norm, rtol=1e-5)
  x = complex_random(5, 4, seed=1)
  assert relative(layer(jnp.asarray(x, jnp.complex64)), x @ v) < 1e-5
  g = np.array([0.5, 2.0, 3.0])
  layer.set_scale(jnp.asarray(g, jnp.float32))
  w = eq2(v, g)
  assert layer.normalized_kernel().dtype == jnp.complex64
  assert relative(layer(jnp.asarray(x, jnp.complex64)), x @ w) < 1e-5
  assert relative(wn.fold(layer).kernel, w) < 1e-5
  again = wn.unfold(wn.fold(layer))
  assert relative(again.scale, g) < 1e-5
  assert relative(again.normalized_kernel(), w) < 1e-5


def test_gradients_of_complex_weights_are_finite_differences():
  """JAX's convention: the gradient by z = a + ib is ∂L/∂a − i ∂L/∂b."""
  v, g, x = complex_random(2, 3), random(3, seed=2), complex_random(4, 2, seed=1)
  t = complex_random(4, 3, seed=3)

  def loss(weight, v, g):
    return (abs(x @ weight(v, g) - t) ** 2).sum()

  with jax.enable_x64(True):
    compute = lambda v, g: loss(lambda v, g: wn.weight_norm(v, g), v, g)
    dv, dg = jax.grad(compute, (0, 1))(jnp.asarray(v), jnp.asarray(g))
  assert dg.dtype == np.float64 and dv.dtype == np.complex128
  slope = np.zeros(v.shape, complex)
  for i in np.ndindex(v.shape):
    for unit, factor in ((1, 1), (1j, -1j)):
      h = np.zeros(v.shape, complex)
      h[i] = 1e-6 * unit
      slope[i] += factor * (loss(eq2, v + h, g) - loss(eq2, v - h, g)) / 2e-6
  assert relative(dv, slope) < 1e-6
  by_g = [(loss(eq2, v, g + h) - loss(eq2, v, g - h)) / 2e-6 for h in 1e-6 * np.eye(3)]
  assert relative(dg, by_g) < 1e-6
  np.testing.assert_allclose(np.sum((np.asarray(dv) * v).real, 0), 0, atol=1e-6)


def test_zero_complex_units_start_at_zero_with_a_complex_direction():
  layer = wn.Linear(
    4, 3, param_dtype=jnp.complex64, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)
  )
  assert not layer(jnp.ones((1, 4))).any()
  v = np.asarray(layer.kernel)
  np.testing.assert_allclose(np.linalg.norm(v, axis=0), 1, rtol=1e-5)
  assert (v.imag != 0).all()


def test_complex_convolution():
  plain = nnx.Conv(2, 3, 3, param_dtype=jnp.complex64, kernel_init=complex_init, rngs=nnx.Rngs(0))
  x = jnp.asarray(complex_random(2, 5, 2), jnp.complex64)
  assert relative(wn.unfold(plain)(x), plain(x)) < 1e-5


# Narrow.

NARROW = [jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn]


def narrow_init(key, shape, dtype):
  del key
  return jnp.asarray(0.5 * random(*shape), jnp.float32).astype(dtype)


def layers(library, dtype):
  kwargs = dict(dtype=jnp.float32, param_dtype=dtype, rngs=nnx.Rngs(0))
  init = dict(kernel_init=narrow_init)
  x = jnp.asarray(random(2, 5, 4), jnp.float32)
  return [
    (library.Linear(4, 3, **init, **kwargs), x),
    (library.Conv(4, 3, 2, **init, **kwargs), x),
    (library.LinearGeneral(4, (3, 2), **init, **kwargs), x),
    (library.Embed(4, 3, embedding_init=narrow_init, **kwargs), jnp.asarray([1, 3])),
  ]


@pytest.mark.parametrize('dtype', NARROW, ids=lambda dtype: dtype.__name__)
def test_narrow_parameters_are_computed_with_in_float32(dtype):
  for (plain, x), (layer, _) in zip(layers(nnx, dtype), layers(wn, dtype)):
    name = 'embedding' if isinstance(plain, nnx.Embed) else 'kernel'
    assert getattr(layer, name).dtype == dtype
    assert layer.scale.dtype == (jnp.float32 if jnp.dtype(dtype).itemsize == 1 else dtype)
    y, expected = layer(x), plain(x)
    assert y.dtype == expected.dtype == jnp.float32
    rounding = 1e-6 if layer.scale.dtype == jnp.float32 else jnp.finfo(dtype).eps
    assert relative(y, expected) < rounding
    assert layer.normalized_kernel().dtype == jnp.float32
    folded = wn.fold(layer)
    assert relative(folded(x), y) < 1e-6
    assert relative(wn.unfold(folded)(x), y) < 1e-6


@pytest.mark.parametrize('dtype', NARROW, ids=lambda dtype: dtype.__name__)
def test_gradients_of_narrow_parameters_are_eq_3_rounded_once(dtype):
  layer = layers(wn, dtype)[0][0]
  x, dy = random(5, 4), random(5, 3, seed=1)
  layer.set_scale(jnp.asarray([0.5, 2.0, 1.5]))
  loss = lambda layer: jnp.sum(layer(jnp.asarray(x, jnp.float32)) * jnp.asarray(dy, jnp.float32))
  gradient = nnx.grad(loss)(layer)
  v, g = np.asarray(layer.kernel).astype(np.float64), np.array([0.5, 2.0, 1.5])
  norm, dw = np.linalg.norm(v, axis=0), x.T @ dy
  dg = np.sum(dw * v, 0) / norm
  dv = g / norm * (dw - dg * v / norm)
  eps = float(jnp.finfo(dtype).eps)
  assert relative(gradient.kernel, dv) < eps
  assert relative(gradient.scale, dg) < max(1e-5, eps)


@pytest.mark.parametrize('own', [{}, {'dtype': jnp.bfloat16}], ids=['dtype=None', 'same dtype'])
def test_weights_keep_the_dtype_that_layers_compute_in(own):
  kwargs = own | dict(param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  x = jnp.asarray(random(5, 4), jnp.bfloat16)
  for plain, inputs in (
    (nnx.Linear(4, 3, **kwargs), x),
    (nnx.Conv(4, 3, 2, **kwargs), x),
    (nnx.Einsum('bi,io->bo', (4, 3), **kwargs), x),
    (nnx.Embed(4, 3, **kwargs), jnp.asarray([1, 3])),
  ):
    layer = wn.unfold(plain)
    layer.set_scale(2 * layer.get_scale())
    w = wn.weight(layer)
    assert w.dtype == wn.weight(plain).dtype == jnp.bfloat16
    folded = wn.fold(layer)
    np.testing.assert_array_equal(wn.weight(folded), w)
    assert wn.weight(folded).dtype == jnp.bfloat16
    y = layer(inputs)
    assert y.dtype == plain(inputs).dtype == jnp.bfloat16
    np.testing.assert_array_equal(folded(inputs), y)


def test_tied_logits_keep_their_dtype():
  embed = nnx.Embed(5, 3, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  logits = lambda embed: embed(jnp.arange(3)) @ wn.weight(embed).T
  assert logits(wn.unfold(embed)).dtype == logits(embed).dtype == jnp.bfloat16
  assert wn.weight(wn.Embed(5, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))).dtype == jnp.float32


def test_zero_units_of_narrow_kernels():
  for dtype in NARROW:
    kwargs = dict(kernel_init=nnx.initializers.zeros, dtype=jnp.float32, param_dtype=dtype)
    layer = wn.Linear(64, 3, **kwargs, rngs=nnx.Rngs(0))
    assert not layer.scale[...].astype(jnp.float32).any()
    norms = np.linalg.norm(np.asarray(layer.kernel).astype(np.float64), axis=0)
    np.testing.assert_allclose(norms, 1, rtol=0.1)


def test_norm_of_float16_does_not_overflow():
  layer = wn.Linear(
    4096, 2, param_dtype=jnp.float16, kernel_init=nnx.initializers.constant(100.0), rngs=nnx.Rngs(0)
  )
  np.testing.assert_allclose(layer.scale[...], 6400)
  np.testing.assert_allclose(layer.normalized_kernel(), 100)


# Wide.


def test_float64_throughout():
  with jax.enable_x64(True):
    layer = wn.Linear(4, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    g = random(3)
    layer.set_scale(jnp.asarray(g))
    assert layer.kernel.dtype == layer.scale.dtype == np.float64
    w = eq2(layer.kernel, g)
    x = random(5, 4)
    assert relative(layer(jnp.asarray(x)), x @ w) < 1e-14
    assert relative(wn.fold(layer).kernel, w) < 1e-14
    assert wn.unfold(wn.fold(layer)).scale.dtype == np.float64
    wide = wn.weight_norm(jnp.ones((2, 2), jnp.float32), jnp.ones(2, jnp.float64))
    assert wide.dtype == np.float64
    narrow = wn.Linear(4, 3, rngs=nnx.Rngs(0))
    assert narrow.scale.dtype == narrow.normalized_kernel().dtype == np.float32
