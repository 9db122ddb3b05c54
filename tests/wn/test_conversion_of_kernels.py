"""Kernels that `wn.unfold` leaves alone: those read under another name or as another value."""

import collections
import warnings
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx, struct

import wn
from tests.wn.test_conversion import Holder, close, kinds, linear, random
from tests.wn.test_conversion_limits import Gained, left_alone

# Kernels that the model has under another name.


class Decoder(nnx.Module):
  def __init__(self, w):
    self.w = w


@struct.dataclass
class Box:
  w: Any


class TiedByVariable(nnx.Module):
  """Autoencoder that holds the kernel of its encoder itself."""

  def __init__(self, hold):
    self.encoder = linear()
    self.hidden = linear(1)
    self.hold = nnx.data(hold(self.encoder.kernel))

  def __call__(self, x, get):
    return self.hidden(self.encoder(x)) @ get(self.hold)[...].T


@pytest.mark.parametrize(
  ('hold', 'get', 'name'),
  [
    (lambda w: w, lambda hold: hold, 'hold'),
    (Decoder, lambda hold: hold.w, 'hold.w'),
    (lambda w: [{'w': w}], lambda hold: hold[0]['w'], 'hold.0.w'),
    (lambda w: (1, w), lambda hold: hold[1], 'hold.1'),
    (Box, lambda hold: hold.w, 'hold.w'),
  ],
  ids=['attribute', 'module', 'list', 'tuple', 'dataclass'],
)
def test_layer_whose_kernel_the_model_holds_itself_is_left_alone(hold, get, name):
  model, x = TiedByVariable(hold), random(3, 4)
  unfolded = left_alone(model, rf'encoder \(shares its kernel with {name}\)')
  assert kinds(unfolded) == {'hidden'}
  assert get(unfolded.hold) is unfolded.encoder.kernel
  close(unfolded(x, get), model(x, get))


def test_layer_with_two_names_for_its_kernel_is_left_alone():
  layer = Gained('tied', None)
  layer.tied = nnx.data(layer.kernel)
  assert not kinds(left_alone(Holder(a=layer), r'a \(shares its kernel with a\.tied\)'))


def test_settings_in_containers_of_python_are_left_as_they_are():
  model = Holder(a=linear(), counts=collections.Counter('aab'), sizes=(3, [4]))
  unfolded = wn.unfold(model)
  assert kinds(unfolded) == {'a'} and unfolded.counts == {'a': 2, 'b': 1}


def test_layer_that_the_model_holds_twice_shares_nothing():
  layer = linear()
  model = Holder(a=layer, list=nnx.data([layer]), bias=layer.bias)
  assert kinds(wn.unfold(model)) == {'a'}


class TiedPart(nnx.Pytree):
  """No module, but with a method that reads a kernel."""

  def __init__(self):
    self.layer = linear()

  def decode(self, h):
    return h @ self.layer.kernel[...].T


def test_reads_by_an_object_that_is_no_module_are_found():
  model, h = Holder(part=TiedPart(), b=linear()), random(3, 4)
  unfolded = left_alone(model, r'part\.layer \(TiedPart\.decode reads its kernel: .*\)')
  assert kinds(unfolded) == {'b'}
  close(unfolded.part.decode(h), model.part.decode(h))


# Kernels that may read as another value than they store.


class Positive(nnx.Param):
  """exp(raw)."""

  def get_value(self, **kwargs):
    return jnp.exp(super().get_value(**kwargs))


def with_hook(value):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # hooks are deprecated
    return nnx.Param(value, on_get_value=lambda variable, value: jnp.exp(value))


def computed(layer, hijax, variable):
  with nnx.var_defaults(hijax=hijax):
    layer.kernel = variable(layer.kernel[...])
  return layer


for_each_kind = pytest.mark.parametrize(
  ('hijax', 'variable'), [(False, Positive), (True, Positive), (False, with_hook)]
)


@for_each_kind
def test_layer_whose_kernel_is_computed_is_left_alone(hijax, variable):
  model, x = Holder(a=computed(linear(), hijax, variable), b=linear()), random(3, 4)
  unfolded = left_alone(
    model, r'a \(its kernel has hooks or a type of its own, which may change its value\)'
  )
  assert kinds(unfolded) == {'b'}
  close(unfolded.a(x), model.a(x))


@for_each_kind
def test_computed_kernels_of_normalized_layers_are_errors_in_fold_and_the_wrapper(hijax, variable):
  layer = computed(wn.Linear(4, 4, rngs=nnx.Rngs(0)), hijax, variable)
  with pytest.raises(TypeError, match='cannot fold a: its kernel has hooks or a type of its own'):
    wn.fold(Holder(a=layer))
  with pytest.raises(ValueError, match='kernel has hooks or a type of its own'):
    wn.WeightNorm(computed(linear(), hijax, variable), 'kernel')


@for_each_kind
def test_computed_kernels_of_plain_layers_are_not_initialized(hijax, variable):
  model, x = nnx.Sequential(computed(linear(), hijax, variable)), random(9, 4)
  y = model(x)
  with pytest.warns(UserWarning, match=r'their kernels have hooks or types .*: layers\.0$'):
    wn.data_dependent_init(model, x)
  close(model(x), y)
