"""`wn.linen.data_dependent_init` against Eq. 5-6 in float64 NumPy, and against that for NNX."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
import wn.linen
from tests.wn.comparisons import assert_close, assert_same, f64, random
from tests.wn.linen.models import (
  NET_LAYERS,
  AutoEncoder,
  Lifted,
  Net,
  NnxNet,
  assert_moments,
  for_each_library,
  trained,
)


@for_each_library
def test_every_pre_activation_has_mean_0_and_std_init_scale(library, init_scale=0.1):
  model, x = Net(library), random(8, 6, 6, 4)
  variables = trained(model, x)
  before = jax.tree.map(np.array, variables)
  new = wn.linen.data_dependent_init(model, variables, x, init_scale=init_scale)
  for t in model.apply(new, x, record=True):
    assert_moments(t, 0, init_scale)
  assert_same(variables, before)


@pytest.mark.parametrize('log_scale', [False, 3.0])
def test_layers_get_g_and_b_of_the_equations(log_scale):
  model = nn.Sequential([wn.linen.Dense(5, log_scale=log_scale), nn.relu, wn.linen.Dense(3)])
  x, c = random(50, 4), 0.5
  old = trained(model, x)['params']
  new = wn.linen.data_dependent_init(model, {'params': old}, x, init_scale=c)['params']
  h = f64(x)
  for name, factor in (('layers_0', log_scale), ('layers_2', False)):
    v = f64(old[name]['kernel'])
    t = h @ (v / np.sqrt(np.sum(v**2, 0)))
    scale = f64(new[name]['scale'])
    np.testing.assert_array_equal(new[name]['kernel'], old[name]['kernel'])
    np.testing.assert_allclose(np.exp(factor * scale) if factor else scale, c / t.std(0), rtol=1e-5)
    np.testing.assert_allclose(f64(new[name]['bias']), -c * t.mean(0) / t.std(0), atol=1e-5)
    h = np.maximum(c * (t - t.mean(0)) / t.std(0), 0)


@pytest.mark.parametrize(
  ('library', 'fields'),
  [
    (wn.linen, {}),
    (wn.linen, {'log_scale': 3.0}),
    (wn.linen, {'unit_axis': None}),
    (wn.linen, {'unit_axis': -2, 'use_bias': False}),
    (nn, {}),
  ],
)
def test_numbers_are_those_of_nnx(library, fields):
  x = random(8, 6, 6, 4)
  model = Net(library, tuple(fields.items()))
  variables = trained(model, x)
  other = NnxNet(wn if library is wn.linen else nnx, variables['params'], **fields)
  wn.data_dependent_init(other, x, init_scale=0.5)
  new = wn.linen.data_dependent_init(model, variables, x, init_scale=0.5)['params']
  for layer, name in zip(other.layers, NET_LAYERS):
    expected = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    assert expected.keys() == new[name].keys()
    for key in expected:
      np.testing.assert_allclose(new[name][key], expected[key], rtol=2e-5, atol=2e-6)


@for_each_library
def test_in_jit_the_result_is_the_eager_one(library):
  model, x = Net(library), random(8, 6, 6, 4)
  variables = trained(model, x)
  eager = wn.linen.data_dependent_init(model, variables, x)
  jitted = jax.jit(lambda *args: wn.linen.data_dependent_init(model, *args))(variables, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), jitted, eager)


@for_each_library
def test_general_layers_as_in_attention(library):
  class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = library.DenseGeneral((3, 2))(x)
      self.sow('intermediates', 'heads', x)
      x = library.DenseGeneral(5, axis=(-2, -1))(x)
      self.sow('intermediates', 'out', x)
      return library.DenseGeneral(3, batch_dims=(0,), axis=-1)(x)

  model, x = Heads(), random(6, 50, 4)
  variables = {'params': trained(model, x)['params']}
  new = wn.linen.data_dependent_init(model, variables, x)
  assert new.keys() == {'params'}
  y, seen = model.apply(new, x, mutable='intermediates')
  assert_moments(seen['intermediates']['heads'][0].reshape(6, 50, 6), 0, 1)
  assert_moments(seen['intermediates']['out'][0], 0, 1)
  assert_moments(y.transpose(1, 0, 2), 0, 1)  # every index of the batch axis is a unit


def test_other_collections_are_updated_and_arguments_reach_the_forward_pass():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      x = wn.linen.Dense(5, use_bias=False)(x + self.make_rng('noise')[0] * 0)
      x = nn.BatchNorm(use_running_average=not train)(x)
      return nn.Dense(3)(x)

  model, x = Model(), random(50, 4)
  rngs = {'noise': jax.random.PRNGKey(1)}
  variables = model.init({'params': jax.random.key(0), **rngs}, x, train=True)
  new = wn.linen.data_dependent_init(model, variables, x, train=True, rngs=rngs)
  assert np.all(new['batch_stats']['BatchNorm_0']['mean'] != 0)
  y, _ = model.apply(new, x, train=True, rngs=rngs, mutable='batch_stats')
  assert_moments(y, 0, 1)


def test_first_use_of_a_shared_layer_counts():
  class Twice(nn.Module):
    def setup(self):
      self.shared, self.last = wn.linen.Dense(4), wn.linen.Dense(3)

    def __call__(self, x):
      first = self.shared(x)
      return first, self.last(nn.relu(self.shared(nn.relu(first))))

  model, x = Twice(), random(50, 4)
  new = wn.linen.data_dependent_init(model, trained(model, x), x)
  for t in model.apply(new, x):
    assert_moments(t, 0, 1)  # the last layer saw the second use with the new parameters


def test_layers_may_have_scales_of_their_own():
  model, x = AutoEncoder(), random(50, 4)
  variables = trained(model, x)
  asked = []
  scales = {'encoder': 0.1, 'decoder': 2.0}
  init_scale = lambda name, layer: asked.append((name, type(layer))) or scales[name]
  new = wn.linen.data_dependent_init(model, variables, x, init_scale=init_scale)
  assert asked == [('encoder', wn.linen.Dense), ('decoder', wn.linen.Dense)]
  assert_moments(model.apply(new, x, method='encode'), 0, 0.1)
  assert_moments(model.apply(new, x), 0, 2)


@for_each_library
def test_single_layer_as_the_model_and_parameters_in_numpy(library):
  layer, x = library.Dense(3), random(50, 4)
  variables = jax.tree.map(np.asarray, trained(layer, x))
  assert_moments(layer.apply(wn.linen.data_dependent_init(layer, variables, x), x), 0, 1)


@for_each_library
def test_of_subclasses_the_input_is_what_they_pass_to_their_parent(library):
  class Causal(library.Conv):
    @nn.compact
    def __call__(self, x):
      return super().__call__(jnp.pad(x, ((0, 0), (self.kernel_size[0] - 1, 0), (0, 0))))

  model, x = Causal(3, (4,), padding='VALID'), random(20, 6, 4)
  variables = trained(model, x)
  assert_moments(model.apply(wn.linen.data_dependent_init(model, variables, x), x), 0, 1)
  if library is wn.linen:
    plain = wn.linen.fold(model, variables, x)['params']['kernel']
    assert_close(plain, wn.weight_norm(*(variables['params'][k] for k in ('kernel', 'scale'))))


def test_layers_not_initialized_are_named():
  model, x = AutoEncoder(), random(50, 4)
  variables = trained(model, x)
  with pytest.warns(UserWarning, match=r'not initialized: decoder \(the forward pass does not'):
    new = wn.linen.data_dependent_init(model, variables, x, method='encode')
  assert_same(new['params']['decoder'], variables['params']['decoder'])
  with pytest.warns(UserWarning, match='LayerNorm has no layers'):
    norm = nn.LayerNorm()
    wn.linen.data_dependent_init(norm, norm.init(jax.random.key(0), x), x)


def test_layers_without_a_counterpart_are_named_as_such():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      return wn.linen.Dense(3)(nn.Einsum((4, 5), '...i,io->...o')(x))

  model, x = Model(), random(50, 4)
  variables = model.init(jax.random.key(0), x)
  with pytest.warns(UserWarning, match=r'not initialized: Einsum_0 \(it does not know Einsum'):
    wn.linen.data_dependent_init(model, variables, x)


@for_each_library
def test_layers_in_transforms_stay_and_are_named(library):
  model, x = Lifted(library), random(50, 4)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  with pytest.warns(UserWarning, match='not initialized') as record:
    new = wn.linen.data_dependent_init(model, variables, x)
  (message,) = (str(r.message) for r in record)
  assert set(re.findall(r'([\w.]+) \(', message)) == {
    f'{m}.Dense_0' for m in ('stack', 'loop', 'remat')
  }
  for name in ('stack', 'loop', 'remat'):
    assert_same(new['params'][name], variables['params'][name])
  assert_moments(model.apply(new, x), 0, 1)


def test_recurrent_cells_and_layers_that_flax_normalizes_stay():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      _, x = nn.GRUCell(4, name='cell')(x, x)
      x = nn.RNN(nn.SimpleCell(4), name='rnn')(x[:, None])[:, 0]
      return nn.Dense(3, name='head')(nn.WeightNorm(nn.Dense(4, name='normed'))(x))

  model, x = Model(), random(50, 4)
  variables = trained(model, x)
  with pytest.warns(UserWarning) as record:
    new = wn.linen.data_dependent_init(model, variables, x)
  (message,) = (str(r.message) for r in record)
  assert 'cell.hn (in a recurrent cell)' in message and 'normed (' in message
  assert 'head' not in message
  for name in new['params'].keys() - {'head'}:
    assert_same(new['params'][name], variables['params'][name])
  assert_moments(model.apply(new, x), 0, 1)


@for_each_library
def test_units_below_the_floor_are_counted(library):
  layer, x = library.Dense(3, name='d'), jnp.ones((5, 4))
  variables = trained(layer, x)
  with pytest.warns(UserWarning, match='Dense: 3 of 3 units .* below std_floor=0.5'):
    new = wn.linen.data_dependent_init(layer, variables, x, std_floor=0.5)
  v = f64(variables['params']['kernel'])
  direction = v / np.sqrt(np.sum(v**2, 0))
  w = f64(
    wn.linen.fold(layer, new, x)['params']['kernel']
    if library is wn.linen
    else new['params']['kernel']
  )
  assert_close(w, 2 * direction)


@for_each_library
def test_zero_units_stay_and_are_counted(library):
  x, v = random(50, 4), jnp.ones((4, 3)).at[:, 1].set(0)
  layer = library.Dense(3, kernel_init=lambda *_: v)
  variables = layer.init(jax.random.key(0), x)
  with pytest.warns(UserWarning, match='1 of 3 units have a zero kernel'):
    new = wn.linen.data_dependent_init(layer, variables, x)
  y = layer.apply(new, x)
  np.testing.assert_array_equal(y[:, 1], np.zeros(50))
  assert_moments(y[:, ::2], 0, 1)


@for_each_library
def test_masked_units_stay_without_a_warning(library):
  x, mask = random(20, 6, 4), jnp.ones((3, 4, 2)).at[..., 0].set(0)
  layer = library.Conv(2, (3,), mask=mask)
  variables = trained(layer, x)
  new = wn.linen.data_dependent_init(layer, variables, x)
  y = layer.apply(new, x)
  assert not y[..., 0].any()
  assert_moments(y[..., 1:], 0, 1)


@for_each_library
@pytest.mark.parametrize(
  ('x', 'kwargs', 'message'),
  [
    (random(50, 4).at[3, 2].set(jnp.nan), {}, 'encoder: .* 5 of 5 units are not finite'),
    (jnp.zeros((0, 4)), {}, r'encoder: the batch is empty.*\(0, 4\)'),
    (random(50, 4), {'init_scale': 0.0}, 'init_scale must be positive'),
    (random(50, 4), {'init_scale': lambda name, _: -1.0}, 'init_scale of encoder must be'),
    (random(50, 4), {'std_floor': jnp.nan}, 'std_floor must be positive'),
  ],
)
def test_errors(library, x, kwargs, message):
  model = AutoEncoder(library)
  variables = model.init(jax.random.key(0), random(50, 4))
  with pytest.raises(ValueError, match=message):
    wn.linen.data_dependent_init(model, variables, x, **kwargs)


@for_each_library
def test_in_jit_a_layer_without_finite_statistics_keeps_what_it_had(library):
  model, x = AutoEncoder(library), random(50, 4).at[3, 2].set(jnp.nan)
  variables = trained(model, x)
  with pytest.warns(UserWarning, match='keeps what it had'):
    new = jax.jit(lambda v: wn.linen.data_dependent_init(model, v, x))(variables)
    jax.effects_barrier()
  assert_same(new, variables)
