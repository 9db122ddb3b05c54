"""What `wn.data_dependent_init` takes: models and their methods, with and without decorators."""

import functools

import pytest
from flax import nnx

import wn
from tests.wn.comparisons import assert_moments, random
from tests.wn.test_initialization import for_each_library


def on_half(method):
  """A decorator that halves the input."""

  @functools.wraps(method)
  def wrapper(self, x):
    return method(self, x / 2)

  return wrapper


class TwoWays(nnx.Module):
  """An encoder that is called by a method."""

  def __init__(self, library=wn):
    self.layer = library.Linear(4, 5, rngs=nnx.Rngs(0))

  def encode(self, x):
    return self.layer(x)

  @nnx.jit
  def encode_fast(self, x):
    return self.layer(x)

  @functools.partial(nnx.jit, static_argnames='train')
  def encode_in_training(self, x, train):
    return self.layer(x)

  encode_alias = nnx.jit(encode)

  @nnx.jit
  @on_half
  def encode_half(self, x):
    return self.layer(x)

  def __call__(self, x):
    return self.encode(x)


CALLABLES = {
  'method': lambda model: model.encode,
  'partial': lambda model: functools.partial(model),
  'partial of a method': lambda model: functools.partial(model.encode),
  'nnx.jit': lambda model: nnx.jit(model),
  'partial of nnx.jit': lambda model: functools.partial(nnx.jit(model)),
  'nnx.jit method': lambda model: model.encode_fast,
  'nnx.jit method with options': lambda model: functools.partial(
    model.encode_in_training, train=True
  ),
  'nnx.jit method by another name': lambda model: model.encode_alias,
}


@for_each_library
@pytest.mark.parametrize('make', CALLABLES.values(), ids=CALLABLES)
def test_what_belongs_to_a_module_initializes_it(library, make):
  model, x = TwoWays(library), random(50, 4)
  wn.data_dependent_init(make(model), x)
  assert_moments(model(x), 0, 1)


@pytest.mark.parametrize(
  'make',
  [lambda model: model.encode_half, lambda model: on_half(TwoWays.encode).__get__(model)],
  ids=['in nnx.jit', 'alone'],
)
def test_other_decorators_are_run(make):
  model, x = TwoWays(), random(50, 4)
  wn.data_dependent_init(make(model), x)
  assert_moments(model(x / 2), 0, 1)


class Jitted(nnx.Module):
  """A model whose forward pass is in `nnx.jit`."""

  def __init__(self, library=wn):
    self.layer = library.Linear(4, 5, rngs=nnx.Rngs(0))

  @nnx.jit
  def __call__(self, x):
    return self.layer(x)


class JittedLayer(nnx.Linear):
  @nnx.jit
  def __call__(self, x):
    return super().__call__(x)


JITTED = {
  'model': lambda model: model,
  'nnx.jit': lambda model: nnx.jit(model),
  'partial': lambda model: functools.partial(model),
  '__call__': lambda model: model.__call__,
}


@for_each_library
@pytest.mark.parametrize('make', JITTED.values(), ids=JITTED)
def test_a_forward_pass_in_nnx_jit_initializes_the_model(library, make):
  model, x = Jitted(library), random(50, 4)
  wn.data_dependent_init(make(model), x)
  assert type(model) is Jitted
  assert_moments(model(x), 0, 1)


def test_a_layer_with_a_forward_pass_in_nnx_jit():
  layer, x = JittedLayer(4, 5, rngs=nnx.Rngs(0)), random(50, 4)
  wn.data_dependent_init(layer, x)
  assert_moments(layer(x), 0, 1)


NO_MODULES = {
  'function': lambda x: x,
  'number': 3,
  'nothing': None,
  'class': nnx.Linear,
  'dict': {},
  'function of a module': functools.partial(lambda model, x: model(x), TwoWays()),
}


@pytest.mark.parametrize('argument', NO_MODULES.values(), ids=NO_MODULES)
def test_what_holds_no_module_is_an_error(argument):
  with pytest.raises(TypeError, match=r'must be an nnx\.Module or a method of one'):
    wn.data_dependent_init(argument, random(5, 4))


class Own(nnx.Linear):
  """A layer with a forward pass of its own."""

  @nnx.jit
  def __call__(self, x):
    return x @ self.kernel[...] + self.bias[...][None]


class Doubled(nnx.Linear):
  """A layer that adds to its parent's forward pass."""

  @nnx.jit
  def __call__(self, x):
    return super().__call__(2 * x)


@pytest.mark.parametrize('wrap', [lambda layer: layer, nnx.Sequential], ids=['layer', 'model'])
@pytest.mark.parametrize('cls', [Own, Doubled])
def test_layers_with_a_forward_pass_in_jit_are_initialized(cls, wrap):
  model, x = wrap(cls(4, 5, rngs=nnx.Rngs(0))), random(50, 4)
  wn.data_dependent_init(model, x)
  assert_moments(model(x), 0, 1)
