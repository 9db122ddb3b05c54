"""What data-dependent initialization does with models, layers and batches that are not simple."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import wn
from tests.wn.comparisons import (
  assert_moments,
  assert_same,
  f64,
  random,
)
from tests.wn.test_initialization import (
  Dense,
  for_each_library,
  numbers,
  on_four_devices,
)


def test_a_model_without_layers_is_a_warning():
  with pytest.warns(UserWarning, match='LayerNorm has no layers to initialize'):
    wn.data_dependent_init(nnx.LayerNorm(4, rngs=nnx.Rngs(0)), random(5, 4))


@for_each_library
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_is_an_error_and_changes_nothing(library, bad):
  model, x = Dense(library), random(50, 4).at[3, 1].set(bad)
  before = numbers(model)
  with pytest.raises(ValueError, match=r'layers\.0: the pre-activations of 5 of 5 .*not finite'):
    wn.data_dependent_init(model, x)
  assert_same(numbers(model), before)


@for_each_library
def test_a_later_layer_that_is_not_finite_undoes_the_earlier_ones(library):
  model = Dense(library)
  model.layers[2].kernel[...] = model.layers[2].kernel[...].at[0, 1].set(np.nan)
  before = numbers(model)
  with pytest.raises(ValueError, match=r'layers\.2: the pre-activations of 1 of 3 units'):
    wn.data_dependent_init(model, random(50, 4))
  assert_same(numbers(model), before)


@for_each_library
def test_an_error_of_the_forward_pass_changes_nothing(library):
  model = Dense(library)
  before = numbers(model)

  class Broken(nnx.Module):
    def __init__(self):
      self.model = model

    def __call__(self, x):
      self.model(x)
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    wn.data_dependent_init(Broken(), random(50, 4))
  assert_same(numbers(model), before)
  assert type(model.layers[0]) is library.Linear


@for_each_library
def test_under_jit_a_batch_that_is_not_finite_changes_nothing_with_a_warning(library):
  model = Dense(library)
  graphdef, state = nnx.split(model)

  @jax.jit
  def initialize(state, x):
    model = nnx.merge(graphdef, state)
    wn.data_dependent_init(model, x)
    return nnx.state(model)

  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    after = initialize(state, random(50, 4).at[3, 1].set(np.nan))
    jax.effects_barrier()
  assert any('layers.0: the pre-activations of 5 of 5 units' in str(w.message) for w in caught)
  assert_same(numbers(nnx.merge(graphdef, after)), numbers(model))
  nnx.update(model, initialize(state, random(50, 4)))
  assert_moments(model.layers[0](random(50, 4)), 0, 1)


@for_each_library
def test_an_empty_batch_is_an_error(library):
  model = Dense(library)
  before = numbers(model)
  with pytest.raises(ValueError, match=r'layers\.0: the batch is empty.*\(0, 4\)'):
    wn.data_dependent_init(model, jnp.zeros((0, 4)))
  assert_same(numbers(model), before)


@pytest.mark.parametrize('wrapper', [nnx.WeightNorm, nnx.SpectralNorm, wn.WeightNorm])
def test_layers_whose_kernel_is_computed_are_left_alone_with_a_warning(wrapper):
  layer = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
  if wrapper is wn.WeightNorm:
    model = nnx.Sequential(wn.WeightNorm(layer, 'kernel'))
  else:
    model = nnx.Sequential(wrapper(layer, rngs=nnx.Rngs(0)))
  bias = np.asarray(layer.bias[...])
  with pytest.warns(UserWarning, match=f'{wrapper.__name__} computes their kernels: layers.0'):
    wn.data_dependent_init(model, random(50, 4))
  np.testing.assert_array_equal(layer.bias[...], bias)


@for_each_library
@pytest.mark.parametrize('size', [1e-7, 1e-12])
def test_small_kernels_are_as_good_as_others(library, size):
  layer = library.Linear(4, 5, kernel_init=nnx.initializers.normal(size), rngs=nnx.Rngs(0))
  x = random(50, 4)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    wn.data_dependent_init(layer, x)
  assert_moments(layer(x), 0, 1)


def test_replicas_under_pmap_get_the_statistics_of_the_whole_batch():
  """`jax.vmap` has the same named axes."""
  graphdef, state = nnx.split(Dense(wn))
  x = random(4, 25, 4)
  x = x * jnp.arange(1, 5)[:, None, None]  # replicas differ

  def initialize(state, x):
    model = nnx.merge(graphdef, state)
    wn.data_dependent_init(model, x, axis_name='devices')
    return nnx.state(model)

  states = jax.vmap(initialize, in_axes=(None, 0), axis_name='devices')(state, x)
  expected = Dense(wn)
  wn.data_dependent_init(expected, x.reshape(100, 4))
  for i in range(4):
    actual = jax.tree.map(lambda leaf, i=i: leaf[i], states)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, numbers(nnx.merge(graphdef, actual)), numbers(expected))


@on_four_devices
def test_explicit_mesh_with_a_sharded_kernel_and_a_plain_bias():
  mesh = jax.make_mesh((4,), ('model',))
  x = random(64, 4)
  for library in (nnx, wn):
    with jax.set_mesh(mesh):
      sharded = {'kernel_metadata': {'out_sharding': (None, 'model')}}
      layer = library.Linear(4, 8, **sharded, rngs=nnx.Rngs(0))
      before = [jax.typeof(v[...]).sharding for v in (layer.kernel, layer.bias)]
      wn.data_dependent_init(layer, x)
      assert before == [jax.typeof(v[...]).sharding for v in (layer.kernel, layer.bias)]
      assert before[0].spec == P(None, 'model')
      assert_moments(np.asarray(layer(x, out_sharding=P(None, 'model'))), 0, 1)


class Causal(nnx.Conv):
  """Pads before it calls its parent."""

  def __call__(self, x):
    return super().__call__(jnp.pad(x, ((0, 0), (self.kernel_size[0] - 1, 0), (0, 0))))


class NormalizedCausal(Causal, wn.Conv):
  pass


class CausalOfWn(wn.Conv):
  def __call__(self, x):
    return super().__call__(jnp.pad(x, ((0, 0), (self.kernel_size[0] - 1, 0), (0, 0))))


@pytest.mark.parametrize('cls', [Causal, NormalizedCausal, CausalOfWn])
def test_subclass_that_pads_is_measured_on_the_padded_input(cls):
  layer = cls(3, 5, (4,), padding='VALID', rngs=nnx.Rngs(0))
  x = random(10, 6, 3)
  wn.data_dependent_init(layer, x)
  y = layer(x)
  assert y.shape == (10, 6, 5)
  assert_moments(y, 0, 1)
  assert type(layer) is cls


class Twice(nnx.Linear):
  """Its own forward pass, and another function than its parent's."""

  def __call__(self, x):
    return 2 * nnx.Linear.__call__(self, x)


def test_subclass_with_another_function_is_a_warning():
  layer, x = Twice(4, 5, rngs=nnx.Rngs(0)), random(50, 4)
  with pytest.warns(UserWarning, match='Twice: 5 of 5 units do not have the standard deviation 1'):
    wn.data_dependent_init(layer, x)


GENERAL = {
  'one axis': ((4, (2, 3)), {}, (50, 4)),
  'two axes': (((4, 5), (2, 3)), {'axis': (-2, -1)}, (50, 4, 5)),
  'other axis': ((4, 6), {'axis': -2}, (50, 4, 5)),
  'batch axis': ((4, (2, 3)), {'batch_axis': {0: 7}}, (7, 50, 4)),
}


@for_each_library
@pytest.mark.parametrize(('features', 'kwargs', 'in_shape'), GENERAL.values(), ids=GENERAL)
def test_linear_general(library, features, kwargs, in_shape):
  layer = library.LinearGeneral(*features, **kwargs, rngs=nnx.Rngs(0))
  x = random(*in_shape)
  wn.data_dependent_init(layer, x, init_scale=0.5)
  y = f64(layer(x))
  n_out = len(layer.out_features)
  axes = tuple(range(len(layer.batch_axis), y.ndim - n_out))
  np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(axes), 0.5, rtol=1e-5)


EINSUMS = {
  'dense': ('bi,io->bo', (4, 5), (5,), (50, 4), (0,)),
  'ellipsis': ('...i,io->...o', (4, 5), (5,), (5, 10, 4), (0, 1)),
  'heads': ('bti,hio->bhto', (2, 4, 5), (2, 5), (10, 5, 4), (0, 2)),
  'turned': ('bi,iho->boh', (4, 2, 5), (5, 2), (50, 4), (0,)),
}


@for_each_library
@pytest.mark.parametrize(
  ('einsum', 'kernel', 'bias', 'in_shape', 'axes'), EINSUMS.values(), ids=EINSUMS
)
def test_einsum(library, einsum, kernel, bias, in_shape, axes):
  layer = library.Einsum(einsum, kernel, bias, rngs=nnx.Rngs(0))
  x = random(*in_shape)
  wn.data_dependent_init(layer, x, init_scale=0.5)
  y = f64(layer(x))
  np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(axes), 0.5, rtol=1e-5)


@pytest.mark.parametrize('unit_axis', [None, 0, (0, 1)])
def test_units_that_are_not_output_features_keep_the_ratio_of_their_scales(unit_axis):
  layer, x = wn.Linear(4, 5, unit_axis=unit_axis, rngs=nnx.Rngs(0)), random(50, 4)
  before = f64(layer.get_scale())
  wn.data_dependent_init(layer, x, init_scale=0.5)
  y = f64(layer(x))
  np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(np.sqrt(np.mean(y.var(0))), 0.5, rtol=1e-5)
  ratio = f64(layer.get_scale()) / before
  np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_attention_is_initialized():
  attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
  model, x = wn.unfold(attention), random(10, 5, 8)
  wn.data_dependent_init(model, x)
  assert_moments(model.query(x).reshape(50, 8), 0, 1)
  assert_moments(model(x), 0, 1)


def test_a_unit_that_starts_at_zero_stays_there_with_a_warning():
  layer = wn.Linear(4, 5, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
  x = random(50, 4)
  with pytest.warns(UserWarning, match='Linear: 5 of 5 units have a zero kernel'):
    wn.data_dependent_init(layer, x)
  assert not layer(x).any()


def test_complex_layers():
  layer = wn.Linear(4, 5, param_dtype=jnp.complex64, rngs=nnx.Rngs(0))
  x = random(50, 4) + 1j * random(50, 4, seed=1)
  wn.data_dependent_init(layer, x)
  y = np.asarray(layer(x))
  np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(0), 1, rtol=1e-5)
