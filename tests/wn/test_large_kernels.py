"""A large `wn.Linear` with a small batch, which computes (g/‖v‖) (x·v), against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from wn import large_kernels

IN, OUT, ROWS = 32, 6, 5


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def layer_of(mask=None, log_scale=False, **kwargs):
  """With random parameters; some g are negative where they can be."""
  layer = wn.Linear(IN, OUT, mask=mask, log_scale=log_scale, **kwargs, rngs=nnx.Rngs(0))
  for seed, param in enumerate((layer.kernel, layer.scale, layer.bias), start=2):
    if param is not None:
      param[...] = jnp.asarray(random(*param.shape, seed=seed), param.dtype)
  return layer


@pytest.fixture
def large(monkeypatch):
  """Lets any kernel count as large."""
  monkeypatch.setattr(large_kernels, 'LARGE', 0)


@pytest.mark.parametrize('in_shape', [(IN,), (ROWS, IN), (2, 3, IN)])
@pytest.mark.parametrize('is_masked', [False, True])
@pytest.mark.parametrize('c', [0, 2.0])
def test_outputs_and_gradients(in_shape, is_masked, c, large):
  """Eq. 1–3; with g = exp(c s), ds = c g dg."""
  mask = np.indices((IN, OUT)).sum(0) % 3 > 0 if is_masked else np.ones((IN, OUT))
  layer = layer_of(jnp.asarray(mask) if is_masked else None, c)
  x, dy = random(*in_shape), random(*in_shape[:-1], OUT, seed=1)
  assert large_kernels.scales_outputs(layer, jnp.asarray(x, jnp.float32))

  v, s, b = (np.asarray(p[...], np.float64) for p in (layer.kernel, layer.scale, layer.bias))
  v, g = v * mask, np.exp(c * s) if c else s
  norm = np.linalg.norm(v, axis=0)
  y = x @ (g / norm * v) + b
  dw = x.reshape(-1, IN).T @ dy.reshape(-1, OUT)
  dg = np.sum(dw * v, axis=0) / norm
  dv = (g / norm * dw - g * dg / norm**2 * v) * mask
  expected = {'kernel': dv, 'scale': c * g * dg if c else dg, 'bias': dy.reshape(-1, OUT).sum(0)}

  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  forward = lambda params: nnx.merge(graphdef, params, rest)(jnp.asarray(x, jnp.float32))
  ours, vjp = jax.vjp(forward, params)
  gradients = nnx.to_pure_dict(vjp(jnp.asarray(dy, jnp.float32))[0])
  np.testing.assert_allclose(ours, y, rtol=0, atol=3e-6 * np.abs(y).max())
  for name, value in expected.items():
    np.testing.assert_allclose(gradients[name], value, rtol=0, atol=3e-6 * np.abs(value).max())


def test_a_zero_unit_outputs_the_bias_and_can_leave_the_origin(large):
  layer = layer_of()
  layer.kernel[...] = layer.kernel[...].at[:, 2].set(0)
  x = jnp.asarray(random(ROWS, IN), jnp.float32)
  np.testing.assert_array_equal(layer(x)[:, 2], jnp.broadcast_to(layer.bias[2], ROWS))
  gradient = nnx.grad(lambda layer: jnp.sum(layer(x)))(layer).kernel[...]
  np.testing.assert_allclose(gradient[:, 2], layer.scale[2] * x.sum(0), rtol=1e-5)


def test_it_is_the_folded_layer(large):
  layer, x = layer_of(), jnp.asarray(random(ROWS, IN), jnp.float32)
  np.testing.assert_allclose(layer(x), wn.fold(layer)(x), rtol=0, atol=1e-5)
  np.testing.assert_array_equal(layer(x.tolist()), layer(x))


@pytest.mark.parametrize(
  'rows, kwargs',
  [
    (IN, {}),
    (ROWS, {'dtype': jnp.bfloat16}),
    (ROWS, {'param_dtype': jnp.bfloat16}),
    (ROWS, {'unit_axis': None}),
    (ROWS, {'unit_axis': 0}),
    (ROWS, {'preferred_element_type': jnp.float32}),
    (ROWS, {'dot_general': lambda *args, **kwargs: jax.lax.dot_general(*args, **kwargs)}),
  ],
)
def test_otherwise_it_multiplies_by_w(rows, kwargs, large):
  layer = layer_of(**kwargs)
  assert not large_kernels.scales_outputs(layer, jnp.ones((rows, IN)))


def test_how_large():
  for out_features, expected in ((1023, False), (1024, True)):
    layer = wn.Linear(1024, out_features, rngs=nnx.Rngs(0))
    assert large_kernels.scales_outputs(layer, jnp.ones((64, 1024))) == expected


def test_a_promote_dtype_of_the_users_gets_w(large):
  """It may do more than promote, as here for weights of few bits."""

  def promote(args, **kwargs):
    x, kernel, bias = nnx.nn.dtypes.promote_dtype(args, **kwargs)
    return x, jnp.clip(kernel, -0.1, 0.1), bias

  layer, x = layer_of(promote_dtype=promote), jnp.asarray(random(ROWS, IN), jnp.float32)
  np.testing.assert_array_equal(layer(x), wn.fold(layer)(x))
