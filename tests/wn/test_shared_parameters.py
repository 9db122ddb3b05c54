"""Layers that share parameters without being one object, in `fold` and data-dependent init."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import assert_moments, random


def tied(library, *names):
  """Two layers, the second with the named parameters of the first."""
  first, second = (library.Linear(4, 4, rngs=nnx.Rngs(seed)) for seed in (0, 1))
  for name in names:
    setattr(second, name, getattr(first, name))
  return nnx.Sequential(first, jnp.tanh, second)


def test_layers_that_share_v_and_g_stay_tied_when_folded():
  model, x = tied(wn, 'kernel', 'scale'), random(5, 4)
  model.layers[0].set_scale(2 * model.layers[0].get_scale())
  folded = wn.fold(model)
  np.testing.assert_allclose(folded(x), model(x), atol=1e-6)
  first, _, second = folded.layers
  assert first.kernel is second.kernel and first.bias is not second.bias
  assert len(nnx.to_flat_state(nnx.state(folded, nnx.Param))) == 3
  first, _, second = wn.fold(tied(wn, 'kernel')).layers
  assert first.kernel is not second.kernel


@pytest.mark.parametrize('change', ['log_scale', 'mask', 'dtype'])
def test_layers_with_another_w_of_the_same_v_and_g_do_not(change):
  model, x = tied(wn, 'kernel', 'scale'), random(5, 4)
  second = model.layers[2]
  if change == 'log_scale':
    second.log_scale = 1.0
  elif change == 'mask':
    second.mask = jnp.tril(jnp.ones((4, 4)))
  else:
    second.dtype = jnp.bfloat16
  folded = wn.fold(model)
  np.testing.assert_allclose(folded(x), model(x), atol=1e-6)
  assert folded.layers[0].kernel is not folded.layers[2].kernel


@pytest.mark.parametrize(
  ('library', 'names'), [(wn, ('kernel', 'scale')), (wn, ('bias',)), (nnx, ('kernel',))], ids=str
)
def test_data_dependent_init_says_which_layers_share_what_it_sets(library, names):
  model, x = tied(library, *names), 2 + random(50, 4)
  with pytest.warns(UserWarning, match=rf'layers.0 and layers.2 share their {names[-1]}'):
    wn.data_dependent_init(model, x)


class WithTarget(nnx.Module):
  def __init__(self):
    self.network = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    self.target = nnx.Linear(4, 4, rngs=nnx.Rngs(1))
    self.target.kernel = self.network.kernel

  def __call__(self, x):
    return self.network(x)


def test_a_layer_that_is_not_reached_sets_nothing():
  model, x = WithTarget(), 2 + random(50, 4)
  with pytest.warns(UserWarning) as record:
    wn.data_dependent_init(model, x)
  assert ['not initialized' in str(warning.message) for warning in record] == [True]
  assert_moments(model(x), 0, 1)


def test_a_plain_layer_that_shares_v_with_a_normalized_one():
  first, second = wn.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 4, rngs=nnx.Rngs(1))
  second.kernel = first.kernel
  model, x = nnx.Sequential(first, jnp.tanh, second), 2 + random(50, 4)
  wn.data_dependent_init(model, x)
  assert_moments(model(x), 0, 1)
  assert_moments(first(x), 0, 1)


def test_layers_that_share_v_alone_have_exact_moments():
  model, x = tied(wn, 'kernel'), 2 + random(50, 4)
  wn.data_dependent_init(model, x)
  assert_moments(model(x), 0, 1)
  assert_moments(model.layers[0](x), 0, 1)
