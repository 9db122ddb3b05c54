"""Mean-only batch normalization (§4) against float64 NumPy."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn

FEATURES = 3


def random(*shape, seed=0):
  return jnp.asarray(2 + np.random.default_rng(seed).normal(size=shape), jnp.float32)


def batch_norm(**kwargs):
  kwargs = dict(bias_init=nnx.initializers.normal(1.0)) | kwargs
  return wn.MeanOnlyBatchNorm(FEATURES, **kwargs, rngs=nnx.Rngs(0))


def f64(x):
  return np.asarray(x).astype(np.float64)


def on_four_devices(test):
  """Runs a test in a process of its own, where the CPU counts as four devices."""

  @functools.wraps(test)
  def wrapper():
    if jax.device_count() >= 4:
      return test()
    name = f'{__file__}::{test.__name__}'
    env = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    env['JAX_PLATFORMS'] = 'cpu'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', name]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout

  return wrapper


@pytest.mark.parametrize('shape', [(8, FEATURES), (4, 5, FEATURES), (4, 3, 5, FEATURES)])
def test_training_subtracts_the_mean_of_the_batch_and_adds_the_bias(shape):
  layer, t = batch_norm(), random(*shape)
  mean = f64(t).reshape(-1, FEATURES).mean(0)
  y = layer(t)
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, f64(t) - mean + f64(layer.bias), atol=1e-6)


def test_gradient_of_the_input_is_the_centered_incoming_gradient():
  """§4: ∇t = ∇t̃ − mean(∇t̃), and ∇b = sum(∇t̃)."""
  layer, t, dy = batch_norm(), random(4, 5, FEATURES), random(4, 5, FEATURES, seed=1)
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  forward = lambda params, t: nnx.merge(graphdef, params, rest, copy=True)(t)
  grads, dt = jax.vjp(forward, params, t)[1](dy)
  np.testing.assert_allclose(dt, f64(dy) - f64(dy).mean((0, 1)), atol=1e-6)
  np.testing.assert_allclose(grads['bias'][...], f64(dy).sum((0, 1)), rtol=1e-6)


@pytest.mark.parametrize('momentum', [0.9, 0.5, 0.0])
def test_running_mean_over_several_steps(momentum):
  layer, expected = batch_norm(momentum=momentum), np.zeros(FEATURES)
  np.testing.assert_array_equal(layer.mean[...], expected)
  for step in range(4):
    t = random(8, FEATURES, seed=step)
    layer(t)
    expected = momentum * expected + (1 - momentum) * f64(t).mean(0)
    np.testing.assert_allclose(layer.mean[...], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('in_constructor', 'in_call', 'uses_running_mean'),
  [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_use_running_average(in_constructor, in_call, uses_running_mean):
  layer, t = batch_norm(use_running_average=in_constructor), random(8, FEATURES)
  running_mean = np.array([1.0, -2.0, 3.0], np.float32)
  layer.mean[...] = jnp.asarray(running_mean)
  y = layer(t, use_running_average=in_call)
  mean = running_mean if uses_running_mean else f64(t).mean(0)
  np.testing.assert_allclose(y, f64(t) - mean + f64(layer.bias), atol=1e-6)
  assert (np.asarray(layer.mean) == running_mean).all() == uses_running_mean


def test_train_and_eval_of_nnx_switch_it():
  model = nnx.Sequential(batch_norm())
  model.eval()
  assert model.layers[0].use_running_average
  model.train()
  assert not model.layers[0].use_running_average


def test_evaluation_does_not_center_the_gradient():
  layer, t, dy = batch_norm(use_running_average=True), random(8, FEATURES), random(8, FEATURES)
  graphdef, state = nnx.split(layer)
  (dt,) = jax.vjp(lambda t: nnx.merge(graphdef, state, copy=True)(t), t)[1](dy)
  np.testing.assert_array_equal(dt, dy)


@pytest.mark.parametrize('axis', [1, -3])
def test_axis_names_the_features(axis):
  layer, t = batch_norm(axis=axis), random(4, FEATURES, 5, 6)
  mean = f64(t).mean((0, 2, 3), keepdims=True)
  bias = f64(layer.bias).reshape(FEATURES, 1, 1)
  np.testing.assert_allclose(layer(t), f64(t) - mean + bias, atol=1e-6)
  np.testing.assert_allclose(layer.mean[...], 0.1 * mean.ravel(), rtol=1e-5)
  running = layer(t, use_running_average=True)
  np.testing.assert_allclose(running, f64(t) - 0.1 * mean + bias, atol=1e-6)


@pytest.mark.parametrize('mask_shape', [(4, 5, FEATURES), (4, 5, 1), (5, 1)])
def test_mask_restricts_the_mean_to_positions_that_count(mask_shape):
  layer, t = batch_norm(), random(4, 5, FEATURES)
  mask = np.random.default_rng(3).random(mask_shape) < 0.6
  counts = np.broadcast_to(mask, t.shape)
  mean = [f64(t)[..., i][counts[..., i]].mean() for i in range(FEATURES)]
  mask = jnp.asarray(mask).reshape((1,) * (3 - mask.ndim) + mask.shape)
  y = layer(t, mask=mask)
  np.testing.assert_allclose(y, f64(t) - mean + f64(layer.bias), atol=1e-6)
  np.testing.assert_allclose(layer.mean[...], 0.1 * np.array(mean), rtol=1e-5)


def test_masked_positions_send_no_gradient_through_the_mean():
  layer, t, dy = batch_norm(), random(8, FEATURES), random(8, FEATURES, seed=1)
  mask = np.arange(8)[:, None] < 6
  graphdef, state = nnx.split(layer)
  forward = lambda t: nnx.merge(graphdef, state, copy=True)(t, mask=jnp.asarray(mask))
  (dt,) = jax.vjp(forward, t)[1](dy)
  np.testing.assert_allclose(dt, f64(dy) - mask * f64(dy).sum(0) / 6, atol=1e-6)


@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_input_is_averaged_in_float32(dtype, use_bias):
  layer = batch_norm(use_bias=use_bias, momentum=0.0)
  t = (100 + random(4096, FEATURES)).astype(dtype)  # the sum, 4e5, overflows float16
  mean = f64(t).mean(0)
  y = layer(t)
  np.testing.assert_allclose(layer.mean[...], mean, rtol=1e-6)
  bias = f64(layer.bias) if use_bias else 0
  assert y.dtype == (jnp.float32 if use_bias else dtype)
  tolerance = 1e-4 if use_bias else 2e-2
  np.testing.assert_allclose(f64(y), f64(t) - mean + bias, atol=tolerance)


def test_dtype_is_that_of_the_result_and_param_dtype_that_of_the_bias():
  layer = batch_norm(dtype=jnp.bfloat16, param_dtype=jnp.float16)
  t = random(8, FEATURES)
  y = layer(t)
  assert (y.dtype, layer.bias.dtype) == (jnp.bfloat16, jnp.float16)
  assert layer.mean.dtype == jnp.float32
  np.testing.assert_allclose(f64(y), f64(t) - f64(t).mean(0) + f64(layer.bias), atol=5e-2)


def test_axis_name_averages_over_the_global_batch():
  t, dy = random(4, 8, FEATURES), random(4, 8, FEATURES, seed=1)  # 4 shards
  graphdef, state = nnx.split(batch_norm(axis_name='shards'))

  def forward(t):
    layer = nnx.merge(graphdef, state, copy=True)
    return layer(t), layer.mean[...]

  (y, means), vjp = jax.vjp(jax.vmap(forward, axis_name='shards'), t)
  mean = f64(t).mean((0, 1))
  np.testing.assert_allclose(y, f64(t) - mean + f64(state['bias']), atol=1e-6)
  np.testing.assert_allclose(means, np.tile(0.1 * mean, (4, 1)), rtol=1e-5)
  (dt,) = vjp((dy, jnp.zeros_like(means)))
  np.testing.assert_allclose(dt, f64(dy) - f64(dy).mean((0, 1)), atol=1e-6)


@on_four_devices
def test_axis_index_groups_average_within_each_group():
  t = random(4, 8, FEATURES)
  layer = batch_norm(axis_name='devices', axis_index_groups=[[0, 1], [2, 3]])
  graphdef, state = nnx.split(layer)
  mesh = jax.make_mesh((4,), ('devices',), axis_types=(jax.sharding.AxisType.Auto,))

  @jax.jit  # without it, jaxlib 0.11 crashes, with Flax's own BatchNorm too
  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=jax.P('devices'), out_specs=jax.P('devices'), check_vma=False
  )
  def forward(t):
    return nnx.merge(graphdef, state, copy=True)(t)

  mean = f64(t).reshape(2, 16, FEATURES).mean(1)
  expected = f64(t) - np.repeat(mean, 2, 0)[:, None] + f64(layer.bias)
  np.testing.assert_allclose(forward(t.reshape(32, FEATURES)), expected.reshape(32, -1), atol=1e-6)


@on_four_devices
def test_on_a_mesh_the_mean_is_that_of_the_global_batch():
  t = random(32, FEATURES) + jnp.arange(32.0)[:, None]
  layer = batch_norm()
  graphdef, state = nnx.split(layer)
  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    t = jax.device_put(t, jax.NamedSharding(mesh, jax.P('data')))
    y = jax.jit(lambda state, t: nnx.merge(graphdef, state)(t))(state, t)
  np.testing.assert_allclose(y, f64(t) - f64(t).mean(0) + f64(layer.bias), atol=1e-5)


def test_no_bias():
  layer, t = batch_norm(use_bias=False), random(8, FEATURES)
  assert layer.bias is None
  assert set(nnx.state(layer)) == {'mean'}
  np.testing.assert_allclose(layer(t), f64(t) - f64(t).mean(0), atol=1e-6)


def test_variables_are_the_bias_and_the_running_mean():
  layer = batch_norm()
  assert set(nnx.state(layer, nnx.Param)) == {'bias'}
  assert set(nnx.state(layer, nnx.BatchStat)) == {'mean'}


def test_unsaid_use_running_average_is_an_error():
  layer = batch_norm(use_running_average=None)
  with pytest.raises(ValueError, match='use_running_average'):
    layer(random(8, FEATURES))
  layer(random(8, FEATURES), use_running_average=True)


def test_bias_metadata_reaches_the_bias():
  assert batch_norm(bias_metadata={'note': 'mine'}).bias.get_metadata('note') == 'mine'


def test_works_under_jit():
  t = random(8, FEATURES)
  graphdef, state = nnx.split(batch_norm())

  @jax.jit
  def forward(state, t):
    layer = nnx.merge(graphdef, state)
    return layer(t), nnx.state(layer)

  y, new_state = forward(state, t)
  np.testing.assert_allclose(y, f64(t) - f64(t).mean(0) + f64(state['bias']), atol=1e-6)
  np.testing.assert_allclose(new_state['mean'][...], 0.1 * f64(t).mean(0), rtol=1e-5)


def test_view_with_the_running_mean():
  layer = wn.MeanOnlyBatchNorm(3, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (5, 3))
  view = nnx.view(layer, use_running_average=True)
  np.testing.assert_array_equal(view(x), x)  # the running mean is still 0
