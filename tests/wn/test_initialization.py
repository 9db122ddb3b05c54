"""Data-dependent initialization (Eq. 5-6) against float64 NumPy."""

import functools
import inspect
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import assert_moments, assert_same, f64, random

for_each_library = pytest.mark.parametrize('library', [wn, nnx], ids=['wn', 'nnx'])
for_each_scale = pytest.mark.parametrize('init_scale', [1.0, 0.1])


def numbers(model):
  """A copy of all the model's numbers."""
  return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))


def on_four_devices(test):
  """Runs a test in a process of its own, where the CPU counts as four devices."""

  @functools.wraps(test)
  def wrapper():
    if jax.device_count() >= 4:
      return test()
    name = f'{inspect.getfile(test)}::{test.__name__}'
    env = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    env['JAX_PLATFORMS'] = 'cpu'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', name]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout

  return wrapper


def leaky_relu(x):
  return np.where(x > 0, x, 0.1 * x)


class Dense(nnx.Module):
  """Three dense layers."""

  def __init__(self, library, **kwargs):
    rngs = nnx.Rngs(0)
    sizes = ((4, 5), (5, 6), (6, 3))
    self.layers = nnx.List([library.Linear(*size, **kwargs, rngs=rngs) for size in sizes])

  def __call__(self, x, record=None):
    for layer in self.layers:
      t = layer(x)
      if record is not None:
        record.append(t)
      x = jax.nn.leaky_relu(t, 0.1)
    return x


class Mixed(nnx.Module):
  """Convolutions, transposed convolutions and a dense layer; an image stays 6 × 6."""

  def __init__(self, library, batch_norm=False, **kwargs):
    rngs = nnx.Rngs(0)
    kwargs = dict(rngs=rngs, use_bias=not batch_norm) | kwargs
    conv, transpose = library.Conv, library.ConvTranspose
    self.layers = nnx.List(
      [
        conv(4, 4, (3, 3), **kwargs),
        conv(4, 4, (3, 3), 2, feature_group_count=2, **kwargs),
        transpose(4, 6, (3, 3), 2, **kwargs),
        conv(6, 4, (3, 3), 2, padding='CIRCULAR', **kwargs),
        transpose(4, 4, (3, 3), 2, transpose_kernel=True, **kwargs),
        library.Linear(4 * 36, 4, **kwargs),
      ]
    )
    self.norms = nnx.List(
      [wn.MeanOnlyBatchNorm(layer.out_features, rngs=rngs) for layer in self.layers]
      if batch_norm
      else []
    )

  def __call__(self, x, train=True, record=None):
    for i, layer in enumerate(self.layers):
      if isinstance(layer, nnx.Linear):
        x = x.reshape(len(x), -1)
      t = layer(x)
      if self.norms:
        t = self.norms[i](t, use_running_average=not train)
      if record is not None:
        record.append(t)
      x = jax.nn.leaky_relu(t, 0.1)
    return x


MODELS = pytest.mark.parametrize(
  ('model_class', 'in_shape'), [(Dense, (50, 4)), (Mixed, (8, 6, 6, 4))]
)


def pre_activations(model, x):
  record = []
  model(x, record=record)
  return record


# Eq. 5-6.


@MODELS
@for_each_library
@for_each_scale
def test_every_pre_activation_has_mean_0_and_std_init_scale(
  model_class, in_shape, library, init_scale
):
  model, x = model_class(library), random(*in_shape)
  wn.data_dependent_init(model, x, init_scale=init_scale)
  record = pre_activations(model, x)
  assert len(record) == len(model.layers)
  for t in record:
    assert_moments(t, 0, init_scale)


@for_each_scale
@pytest.mark.parametrize('log_scale', [False, True, 3.0])
def test_wn_layers_get_g_and_b_of_the_equations(init_scale, log_scale):
  model, x = Dense(wn, log_scale=log_scale), random(50, 4)
  kernels = [f64(layer.kernel) for layer in model.layers]
  wn.data_dependent_init(model, x, init_scale=init_scale)
  h = f64(x)
  for layer, v in zip(model.layers, kernels):
    t = h @ (v / np.sqrt(np.sum(v**2, 0)))
    mean, std = t.mean(0), t.std(0)
    np.testing.assert_array_equal(f64(layer.kernel), v)
    g = np.exp(log_scale * f64(layer.scale)) if log_scale else f64(layer.scale)
    np.testing.assert_allclose(g, init_scale / std, rtol=1e-5)
    np.testing.assert_allclose(f64(layer.bias), -init_scale * mean / std, rtol=1e-4, atol=1e-5)
    h = leaky_relu(init_scale * (t - mean) / std)


@for_each_scale
def test_plain_layers_get_the_equations_folded_into_kernel_and_bias(init_scale):
  model, x = Dense(nnx), random(50, 4)
  kernels = [f64(layer.kernel) for layer in model.layers]
  wn.data_dependent_init(model, x, init_scale=init_scale)
  h = f64(x)
  for layer, v in zip(model.layers, kernels):
    direction = v / np.sqrt(np.sum(v**2, 0))
    t = h @ direction
    mean, std = t.mean(0), t.std(0)
    np.testing.assert_allclose(f64(layer.kernel), init_scale / std * direction, rtol=1e-5)
    np.testing.assert_allclose(f64(layer.bias), -init_scale * mean / std, rtol=1e-4, atol=1e-5)
    h = leaky_relu(init_scale * (t - mean) / std)


@for_each_library
def test_layers_may_have_scales_of_their_own(library):
  """Each sees the layer before it at that one's scale, in the order of the forward pass."""
  model, x = Mixed(library), random(8, 6, 6, 4)
  asked = []

  def init_scale(name, layer):
    asked.append((name, layer))
    return 1.0 if isinstance(layer, nnx.ConvTranspose) else 0.1 if name == 'layers.0' else 0.3

  wn.data_dependent_init(model, x, init_scale=init_scale)
  assert asked == [(f'layers.{i}', layer) for i, layer in enumerate(model.layers)]
  for t, scale in zip(pre_activations(model, x), (0.1, 0.3, 1.0, 0.3, 1.0, 0.3), strict=True):
    assert_moments(t, 0, scale)


def test_a_function_that_is_constant_is_that_constant():
  x, kwargs = random(50, 4), {'std_floor': 1e-2}
  by_function, by_value = Dense(wn), Dense(wn)
  wn.data_dependent_init(by_function, x, init_scale=lambda name, layer: 0.1, **kwargs)
  wn.data_dependent_init(by_value, x, init_scale=0.1, **kwargs)
  assert_same(numbers(by_function), numbers(by_value))


@for_each_library
def test_directions_of_all_kernels_stay(library):
  model = Mixed(library)
  before = [f64(layer.kernel) for layer in model.layers]
  wn.data_dependent_init(model, random(8, 6, 6, 4))
  for layer, kernel in zip(model.layers, before):
    if library is wn:
      np.testing.assert_array_equal(f64(layer.kernel), kernel)
    else:
      axis = -2 if getattr(layer, 'transpose_kernel', False) else -1
      other_axes = tuple(i for i in range(kernel.ndim) if i != kernel.ndim + axis)
      direction = lambda k: k / np.sqrt(np.sum(k**2, other_axes, keepdims=True))  # noqa: B023
      np.testing.assert_allclose(direction(f64(layer.kernel)), direction(kernel), atol=1e-6)


def test_plain_and_weight_normalized_models_become_the_same_function():
  x = random(8, 6, 6, 4)
  models = [Mixed(library) for library in (wn, nnx)]
  for model in models:
    wn.data_dependent_init(model, x)
  np.testing.assert_allclose(models[0](x), models[1](x), atol=1e-5)


@for_each_library
@for_each_scale
def test_layers_before_mean_only_batch_norm_get_their_scale_only(library, init_scale):
  model, x = Mixed(library, batch_norm=True), random(8, 6, 6, 4)
  wn.data_dependent_init(model, x, train=True, init_scale=init_scale)
  for layer, norm in zip(model.layers, model.norms):
    assert layer.bias is None
    np.testing.assert_array_equal(norm.bias[...], np.zeros(layer.out_features))
    assert np.abs(norm.mean[...]).max() > 0  # updated, as in any training step
  for t in pre_activations(model, x):
    assert_moments(t, 0, init_scale)


@MODELS
@for_each_library
def test_in_jit_the_result_is_the_eager_one(model_class, in_shape, library):
  x = random(*in_shape)
  eager = model_class(library)
  graphdef, state = nnx.split(eager)

  @jax.jit
  def initialize(state, x):
    model = nnx.merge(graphdef, state)
    wn.data_dependent_init(model, x, init_scale=0.5)
    new_graphdef, new_state = nnx.split(model)
    assert new_graphdef == graphdef
    return new_state

  jitted = nnx.to_pure_dict(initialize(state, x))
  wn.data_dependent_init(eager, x, init_scale=0.5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), jitted, numbers(eager))


@on_four_devices
def test_on_a_mesh_the_statistics_are_those_of_the_global_batch():
  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  x = random(48, 4) * jnp.arange(1, 49)[:, None]  # every shard has its own moments
  eager = Dense(wn)
  graphdef, state = nnx.split(eager)

  @jax.jit
  def initialize(state, x):
    model = nnx.merge(graphdef, state)
    wn.data_dependent_init(model, x)
    return nnx.state(model)

  with jax.set_mesh(mesh):
    state = initialize(state, jax.device_put(x, jax.NamedSharding(mesh, jax.P('data'))))
  wn.data_dependent_init(eager, x)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, nnx.to_pure_dict(state), numbers(eager))


def test_arguments_reach_the_forward_pass():
  class Noisy(nnx.Module):
    def __init__(self):
      self.linear = wn.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x, shift, *, factor, rngs):
      return self.linear(factor * x + shift + jax.random.normal(rngs.noise(), x.shape))

  model, x = Noisy(), random(50, 4)
  wn.data_dependent_init(model, x, 2.0, factor=3.0, rngs=nnx.Rngs(noise=1))
  assert_moments(model(x, 2.0, factor=3.0, rngs=nnx.Rngs(noise=1)), 0, 1)


def test_single_layer_as_the_model():
  layer, x = wn.Linear(4, 3, rngs=nnx.Rngs(0)), random(50, 4)
  wn.data_dependent_init(layer, x)
  assert_moments(layer(x), 0, 1)


@for_each_library
def test_second_call_initializes_anew(library):
  x, other = random(50, 4), random(50, 4, seed=1)
  model, fresh = Dense(library), Dense(library)
  wn.data_dependent_init(model, x)
  wn.data_dependent_init(model, other, init_scale=0.1)
  wn.data_dependent_init(fresh, other, init_scale=0.1)
  for t in pre_activations(model, other):
    assert_moments(t, 0, 0.1)
  np.testing.assert_allclose(model(other), fresh(other), atol=1e-6)


# Dtypes.


@for_each_library
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_inputs_lose_nothing(library, dtype):
  """float32 parameters: nnx computes in float32."""
  model, x = Mixed(library), random(8, 6, 6, 4).astype(dtype)
  wn.data_dependent_init(model, x)
  for t in pre_activations(model, x):
    assert t.dtype == jnp.float32
    assert_moments(t, 0, 1)


@for_each_library
@pytest.mark.parametrize('kwargs', [{'dtype': jnp.bfloat16}, {'param_dtype': jnp.bfloat16}])
def test_half_precision_layers_have_the_moments_up_to_rounding(library, kwargs):
  model, x = Dense(library, **kwargs), random(50, 4).astype(jnp.bfloat16)
  dtypes = jax.tree.map(lambda leaf: leaf.dtype, numbers(model))
  wn.data_dependent_init(model, x)
  assert jax.tree.map(lambda leaf: leaf.dtype, numbers(model)) == dtypes
  for t in pre_activations(model, x):
    assert t.dtype == jnp.bfloat16
    assert_moments(t, 0, 1, tolerance=3e-2)


# Masks and units without variance.


def masked_layer(library, mask):
  """The three kinds of layer that take a mask, on an input."""
  if library is wn.Linear:
    return library(4, 3, mask=mask((4, 3)), rngs=nnx.Rngs(0)), random(50, 4)
  shape = (3, 3, 4) if library.__name__ == 'ConvTranspose' else (3, 4, 3)
  kwargs = {'transpose_kernel': True} if library.__name__ == 'ConvTranspose' else {}
  layer = library(4, 3, 3, mask=mask(shape), **kwargs, rngs=nnx.Rngs(0))
  return layer, random(8, 5, 4)


MASKABLE = pytest.mark.parametrize(
  'layer_class', [wn.Linear, wn.Conv, wn.ConvTranspose, nnx.Conv, nnx.ConvTranspose]
)


@MASKABLE
def test_masked_layers_have_the_moments(layer_class):
  mask = lambda shape: jnp.asarray(np.indices(shape).sum(0) % 2, jnp.float32)
  layer, x = masked_layer(layer_class, mask)
  wn.data_dependent_init(layer, x, init_scale=0.5)
  assert_moments(layer(x), 0, 0.5)


@MASKABLE
def test_fully_masked_units_take_g_equal_c_without_a_warning(layer_class):
  def mask(shape):
    mask = np.ones(shape, np.float32)
    np.moveaxis(mask, -2 if layer_class.__name__ == 'ConvTranspose' else -1, 0)[1] = 0
    return jnp.asarray(mask)

  layer, x = masked_layer(layer_class, mask)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    wn.data_dependent_init(layer, x, init_scale=0.5)
  y = layer(x)
  assert_moments(y[..., ::2], 0, 0.5)
  assert not y[..., 1].any()
  assert np.isfinite(layer.kernel[...]).all()
  if hasattr(layer, 'scale'):
    assert layer.scale[1] == 0.5


def flat_unit_model(library):
  """In layers.0, unit 1 sees the constant input only; unit 0 sees the others."""
  model, x = Dense(library), random(50, 4).at[:, 3].set(5.0)
  kernel = np.ones((4, 5), np.float32)
  kernel[:3, 1] = 0
  model.layers[0].kernel[...] = jnp.asarray(kernel)
  return model, x


@for_each_library
@pytest.mark.parametrize('std_floor', [1e-3, 0.1])
@pytest.mark.parametrize('under_jit', [False, True])
def test_zero_variance_is_floored_with_a_warning(library, std_floor, under_jit):
  model, x = flat_unit_model(library)
  graphdef, state = nnx.split(model)

  def initialize(state, x):
    model = nnx.merge(graphdef, state)
    wn.data_dependent_init(model, x, init_scale=0.5, std_floor=std_floor)
    return nnx.state(model)

  with pytest.warns(UserWarning, match=r'layers\.0: 1 of 5 units') as record:
    state = (jax.jit(initialize) if under_jit else initialize)(state, x)
    jax.effects_barrier()
  assert len(record) == 1
  assert f'std_floor={std_floor:g}' in str(record[0].message)

  model = nnx.merge(graphdef, state)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers(model)))
  g = 0.5 / std_floor
  layer = model.layers[0]
  if library is wn:
    np.testing.assert_allclose(layer.scale[1], g, rtol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(wn.fold(layer).kernel[:, 1]), g, rtol=1e-6)
  np.testing.assert_allclose(layer.bias[1], -5 * g, rtol=1e-5)
  t = f64(layer(x))
  np.testing.assert_allclose(t[:, 1], 0, atol=1e-6 * 5 * g)
  assert_moments(t[:, [0, 2, 3, 4]], 0, 0.5)


@for_each_library
def test_zero_kernels_stay_finite(library):
  model, x = Dense(library, kernel_init=nnx.initializers.zeros), random(50, 4)
  with pytest.warns(UserWarning, match='of .* units') as record:
    wn.data_dependent_init(model, x)
  assert len(record) == 3
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers(model)))
  assert not model(x).any()
