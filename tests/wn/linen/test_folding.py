"""`wn.linen.fold` and `unfold`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wn
import wn.linen
from tests.wn.comparisons import (
  assert_close,
  assert_same,
  checkerboard,
  random,
)
from tests.wn.linen.models import (
  NET_LAYERS,
  AutoEncoder,
  Lifted,
  Net,
  gradients,
  shapes,
  trained,
)

for_each_fields = pytest.mark.parametrize(
  'fields', [(), (('log_scale', 3.0),), (('unit_axis', -2),), (('unit_axis', None),)]
)


@for_each_fields
def test_fold_gives_the_plain_model(fields):
  model, x = Net(fields=fields), random(2, 6, 6, 4)
  variables = trained(model, x)
  before = jax.tree.map(np.array, variables)
  plain = wn.linen.fold(model, variables, x)
  assert shapes(plain) == shapes(trained(Net(nn), x))
  assert_close(Net(nn).apply(plain, x), model.apply(variables, x), 1e-5)
  jitted = jax.jit(lambda variables: wn.linen.fold(model, variables, x))(variables)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), jitted, plain)
  assert_same(variables, before)


@for_each_fields
def test_unfold_gives_the_plain_models_function(fields):
  model, x = Net(fields=fields), random(2, 6, 6, 4)
  plain = trained(Net(nn), x)
  variables = wn.linen.unfold(model, plain, x)
  assert shapes(variables) == shapes(trained(model, x))
  assert_close(model.apply(variables, x), Net(nn).apply(plain, x), 1e-5)
  for name in NET_LAYERS:
    np.testing.assert_array_equal(
      variables['params'][name]['kernel'], plain['params'][name]['kernel']
    )
  assert_same(wn.linen.unfold(model, variables, x), variables)


def test_fold_keeps_masks_dtypes_and_other_collections():
  class Model(nn.Module):
    library: Any

    @nn.compact
    def __call__(self, x, train):
      x = self.library.Conv(6, (3,), mask=checkerboard(3, 4, 6), param_dtype=jnp.bfloat16)(x)
      x = nn.Dropout(0.5, deterministic=not train)(x)
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = self.library.Dense(2, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x)
      return self.library.Dense(2, dtype=jnp.bfloat16)(x)

  x = random(5, 7, 4)
  model = Model(wn.linen)
  variables = jax.tree.map(jnp.abs, trained(model, x, False))  # a variance is positive
  plain = wn.linen.fold(model, variables, x, train=True)
  assert_same(plain['batch_stats'], variables['batch_stats'])
  dtypes = {name: p['kernel'].dtype for name, p in plain['params'].items() if 'kernel' in p}
  assert dtypes == {'Conv_0': jnp.bfloat16, 'Dense_0': jnp.bfloat16, 'Dense_1': jnp.float32}
  np.testing.assert_array_equal(Model(nn).apply(plain, x, False), model.apply(variables, x, False))


def test_fold_is_differentiable():
  model, x = Net(), random(2, 6, 6, 4)
  variables = trained(model, x)
  dy = random(2, 3, seed=1)
  through_fold = lambda v: jnp.sum(Net(nn).apply(wn.linen.fold(model, v, x), x) * dy)
  direct = lambda v: jnp.sum(model.apply(v, x) * dy)
  assert_tree = lambda a, b: assert_close(a, b, 1e-4)
  gradients = [jax.jit(jax.grad(f))(variables) for f in (through_fold, direct)]
  jax.tree.map(assert_tree, *gradients)


def test_fold_and_unfold_reach_into_transforms():
  model, x = Lifted(wn.linen), random(5, 4)
  variables = trained(model, x)
  assert variables['params']['stack']['Dense_0']['scale'].shape == (3, 4)
  plain = wn.linen.fold(model, variables, x)
  assert shapes(plain) == shapes(trained(Lifted(nn), x))
  assert_close(Lifted(nn).apply(plain, x), model.apply(variables, x))
  unfolded = wn.linen.unfold(model, plain, x)
  assert shapes(unfolded) == shapes(variables)
  assert_close(model.apply(unfolded, x), model.apply(variables, x))


def test_unfold_of_a_zero_kernel_trains():
  x = random(5, 4)
  plain = nn.Dense(3, kernel_init=nn.initializers.zeros).init(jax.random.key(0), x)
  params = wn.linen.unfold(wn.linen.Dense(3), plain, x)['params']
  np.testing.assert_array_equal(params['scale'], np.zeros(3))
  assert np.all(gradients(wn.linen.Dense(3), params, x, jnp.ones((5, 3)))['scale'] != 0)


def test_fold_names_what_init_does_not_reach_or_variables_lack():
  model, x = AutoEncoder(), random(50, 4)
  variables = model.init(jax.random.key(0), x)
  with pytest.warns(UserWarning, match='left as they are: decoder'):
    half = wn.linen.fold(model, variables, x, method='encode')
  assert 'scale' in half['params']['decoder'] and 'scale' not in half['params']['encoder']
  with pytest.raises(ValueError, match='encoder has no scale'):
    wn.linen.fold(model, half, x)
  with pytest.raises(ValueError, match=r'encoder: kernel must have shape \(3, 5\).*got \(4, 5\)'):
    wn.linen.unfold(model, half, x[:, :3])


class Words(nn.Module):
  """An embedding and a layer, of which one method reaches the layer alone."""

  def setup(self):
    self.embed, self.head = wn.linen.Embed(7, 4), wn.linen.Dense(3)

  def classify(self, h):
    return self.head(h)

  def __call__(self, words):
    return self.classify(self.embed(words))


def test_fold_names_an_embedding_that_init_does_not_reach():
  model = Words()
  variables = model.init(jax.random.key(0), jnp.arange(5))
  with pytest.warns(UserWarning, match='left as they are: embed$'):
    half = wn.linen.fold(model, variables, random(5, 4), method='classify')
  assert 'scale' in half['params']['embed'] and 'scale' not in half['params']['head']


def test_unfold_names_what_init_does_not_reach():
  x = random(50, 4)
  plain = AutoEncoder(nn).init(jax.random.key(0), x)
  with pytest.warns(UserWarning, match='unfold: not reached by init.*: decoder$') as record:
    half = wn.linen.unfold(AutoEncoder(), plain, x, method='encode')
  assert record[0].filename == __file__
  assert 'scale' in half['params']['encoder'] and 'scale' not in half['params']['decoder']
  variables = wn.linen.unfold(AutoEncoder(), half, x)
  again = wn.linen.unfold(AutoEncoder(), variables, x, method='encode')  # all have a scale
  assert_same(again, variables)


class Gained(nn.Module):
  """A module with parameters of its own that have the names of a layer's, and a plain layer."""

  library: Any

  @nn.compact
  def __call__(self, x):
    kernel = self.param('kernel', nn.initializers.ones, (4, 4))
    scale = self.param('scale', nn.initializers.ones, (4,))
    return nn.Dense(2, name='plain')(
      self.library.Dense(3, name='layer')(x @ (kernel * scale[:, None]))
    )


def test_parameters_of_other_modules_are_left_alone_without_a_warning():
  model, x = Gained(wn.linen), random(5, 4)
  variables = trained(model, x)
  plain = wn.linen.fold(model, variables, x)
  assert shapes(plain) == shapes(trained(Gained(nn), x))
  assert shapes(wn.linen.unfold(model, plain, x)) == shapes(variables)


def test_a_plain_model_is_refused():
  model, x = Net(), random(2, 6, 6, 4)
  variables, plain = trained(model, x), trained(Net(nn), x)
  with pytest.raises(
    ValueError, match=r'ConvTranspose_0 has a scale, but the layer of this model is plain'
  ):
    wn.linen.fold(Net(nn), variables, x)
  for function in (wn.linen.fold, wn.linen.unfold):
    with pytest.raises(ValueError, match=r'Net has no layers of wn\.linen\.'):
      function(Net(nn), plain, x)


def test_normalized_layers_that_are_not_reached_are_named_where_only_plain_ones_are():
  class Half(AutoEncoder):
    def setup(self):
      self.encoder = nn.Dense(5)
      self.decoder = wn.linen.Dense(4)

  x = random(2, 4)
  variables = trained(Half(), x)
  with pytest.warns(UserWarning, match='not reached by init, left as they are: decoder'):
    assert_same(wn.linen.fold(Half(), variables, x, method='encode'), variables)


def test_a_module_with_a_scale_that_it_has_not_always_is_left_alone():
  class Own(nn.Module):
    scaled: bool = False

    @nn.compact
    def __call__(self, x):
      y = x @ self.param('kernel', nn.initializers.ones, (4, 4))
      return y * self.param('scale', nn.initializers.ones, ()) if self.scaled else y

  class Mixed(nn.Module):
    scaled: bool = False

    @nn.compact
    def __call__(self, x):
      return wn.linen.Dense(3)(Own(self.scaled, name='own')(x))

  x = random(2, 4)
  variables = trained(Mixed(scaled=True), x)
  folded = wn.linen.fold(Mixed(), variables, x)
  assert_same(folded['params']['own'], variables['params']['own'])


def test_a_plain_layer_that_has_a_scale_is_refused():
  class Mixed(nn.Module):
    library: Any = wn.linen

    @nn.compact
    def __call__(self, x):
      return self.library.Dense(3)(wn.linen.Dense(4)(x))

  x = random(2, 4)
  variables = trained(Mixed(), x)
  with pytest.raises(
    ValueError, match=r'Dense_0 has a scale, but the layer of this model is plain'
  ):
    wn.linen.fold(Mixed(nn), variables, x)


def test_variables_without_params_are_refused():
  model, x = Net(), random(2, 6, 6, 4)
  variables = trained(model, x)
  for function in (wn.linen.fold, wn.linen.unfold, wn.linen.data_dependent_init):
    with pytest.raises(ValueError, match=r"have no 'params'; give what `model.init` returns"):
      function(model, variables['params'], x)
  with pytest.raises(ValueError, match='mutable: all collections but params are'):
    wn.linen.data_dependent_init(model, variables, x, mutable=['batch_stats'])
