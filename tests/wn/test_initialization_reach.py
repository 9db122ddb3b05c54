"""Which layers `wn.data_dependent_init` initializes, and what it leaves as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import (
  assert_moments,
  assert_same,
  random,
)
from tests.wn.test_initialization import (
  MODELS,
  Dense,
  for_each_library,
  numbers,
)

# Which layers.


@for_each_library
def test_reused_layer_is_initialized_at_its_first_use(library):
  class Reused(nnx.Module):
    def __init__(self):
      self.linear = library.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
      first = self.linear(x)
      return first, self.linear(jax.nn.leaky_relu(first))

  model, x = Reused(), random(50, 4)
  single = library.Linear(4, 4, rngs=nnx.Rngs(0))
  wn.data_dependent_init(model, x)
  wn.data_dependent_init(single, x)
  assert_moments(model(x)[0], 0, 1)
  assert_same(numbers(model.linear), numbers(single))


@for_each_library
@pytest.mark.parametrize('cell_class', ['LSTMCell', 'GRUCell'])
def test_recurrent_cells_are_left_alone_with_a_warning(library, cell_class):
  class Recurrent(nnx.Module):
    def __init__(self):
      rngs = nnx.Rngs(0)
      self.embed = library.Linear(4, 5, rngs=rngs)
      self.cell = getattr(library, cell_class)(5, 6, rngs=rngs)
      self.rnn = nnx.RNN(getattr(library, cell_class)(6, 6, rngs=rngs))
      self.head = library.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
      x = self.embed(x)
      carry = self.cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0))
      _, y = self.cell(carry, x[:, 0])
      return self.head(self.rnn(y[:, None]))

  model, x = Recurrent(), random(50, 1, 4)
  cells = (model.cell, model.rnn.cell)
  before = [numbers(cell) for cell in cells]
  with pytest.warns(UserWarning, match='not meant for recurrent cells.*: cell.*rnn.cell'):
    wn.data_dependent_init(model, x)
  assert_same([numbers(cell) for cell in cells], before)
  assert_moments(model.embed(x), 0, 1)
  assert_moments(model(x), 0, 1)


def test_unreached_layers_are_left_alone_with_a_warning_that_names_them():
  class Partial(nnx.Module):
    def __init__(self):
      rngs = nnx.Rngs(0)
      self.used = wn.Linear(4, 3, rngs=rngs)
      self.heads = nnx.List([wn.Linear(3, 2, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)])
      self.blocks = nnx.Dict(a=wn.Conv(3, 2, 3, rngs=rngs))

    def __call__(self, x):
      return self.used(x)

  model, x = Partial(), random(50, 4)
  before = numbers(model)
  with pytest.warns(UserWarning, match='not initialized') as record:
    wn.data_dependent_init(model, x)
  assert len(record) == 1
  assert record[0].filename == __file__
  message = str(record[0].message)
  assert all(name in message for name in ('heads.0', 'heads.1', 'blocks.a'))
  assert 'used' not in message
  after = numbers(model)
  for name in ('heads', 'blocks'):
    assert_same(after[name], before[name])
  assert_moments(model(x), 0, 1)


@pytest.mark.parametrize('transform', ['vmap', 'scan'])
def test_layers_inside_a_copying_transform_are_left_alone_with_a_warning(transform):
  class Stacked(nnx.Module):
    def __init__(self):
      make = nnx.vmap(lambda rngs: wn.Linear(4, 4, rngs=rngs))
      self.stack = make(nnx.Rngs(0).fork(split=3))
      self.head = wn.Linear(4, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
      if transform == 'vmap':
        x = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.stack, x).sum(0)
      else:
        step = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        x = step(x, self.stack)
      return self.head(x)

  model, x = Stacked(), random(50, 4)
  before = numbers(model)
  with pytest.warns(UserWarning, match='not initialized.*stack') as record:
    wn.data_dependent_init(model, x)
  assert len(record) == 1
  assert type(model.stack) is wn.Linear
  assert_same(numbers(model.stack), before['stack'])
  assert_moments(model(x), 0, 1)


def test_subclass_keeps_its_own_forward_pass():
  class Doubling(wn.Linear):
    def __call__(self, inputs):
      return super().__call__(2 * inputs)

  class Model(nnx.Module):
    def __init__(self):
      self.first = Doubling(4, 5, rngs=nnx.Rngs(0))
      self.last = wn.Linear(5, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
      return self.last(self.first(x))

  model, x = Model(), random(50, 4)
  wn.data_dependent_init(model, x)
  assert type(model.first) is Doubling
  assert_moments(model(x), 0, 1)


# The call itself.


@MODELS
@for_each_library
def test_classes_of_the_layers_are_restored(model_class, in_shape, library):
  model = model_class(library)
  types = [type(layer) for layer in model.layers]
  graphdef = nnx.graphdef(model)
  wn.data_dependent_init(model, random(*in_shape))
  assert [type(layer) for layer in model.layers] == types
  assert nnx.graphdef(model) == graphdef


@for_each_library
def test_classes_are_restored_when_the_forward_pass_raises(library):
  class Failing(Dense):
    def __call__(self, x):
      super().__call__(x)
      raise RuntimeError('no more')

  model = Failing(library)
  graphdef = nnx.graphdef(model)
  with pytest.raises(RuntimeError, match='no more'):
    wn.data_dependent_init(model, random(50, 4))
  assert nnx.graphdef(model) == graphdef
  assert all(type(layer) is library.Linear for layer in model.layers)
  before = numbers(model)
  Dense.__call__(model, random(50, 4, seed=1))  # no run is active any more
  assert_same(numbers(model), before)


@pytest.mark.parametrize('name', ['init_scale', 'std_floor'])
@pytest.mark.parametrize('value', [0.0, -1.0, float('nan'), float('inf')])
def test_settings_that_are_not_positive_are_errors(name, value):
  model = Dense(wn)
  before = numbers(model)
  with pytest.raises(ValueError, match=f'{name} must be positive'):
    wn.data_dependent_init(model, random(50, 4), **{name: value})
  assert_same(numbers(model), before)


@pytest.mark.parametrize('value', [0.0, -1.0, float('nan'), float('inf')])
def test_scales_of_single_layers_that_are_not_positive_are_errors(value):
  """Nothing is initialized before all are known to be right."""
  model = Dense(wn)
  before = numbers(model)
  with pytest.raises(ValueError, match=r'init_scale of layers\.1 must be positive .* got'):
    wn.data_dependent_init(
      model, random(50, 4), init_scale=lambda name, _: value if name == 'layers.1' else 1.0
    )
  assert_same(numbers(model), before)


def test_layer_inside_a_jax_transform_is_left_alone_with_a_warning():
  class Checkpointed(nnx.Module):
    def __init__(self):
      self.first = wn.Linear(3, 4, rngs=nnx.Rngs(0))
      self.second = wn.Linear(4, 5, rngs=nnx.Rngs(1))

    def __call__(self, x):
      return jax.checkpoint(lambda y: self.second(y))(self.first(x))

  model = Checkpointed()
  before = np.array(model.second.scale[...])
  x = jax.random.normal(jax.random.key(0), (50, 3))
  with pytest.warns(UserWarning, match='not initialized.*: second'):
    wn.data_dependent_init(model, x)
  np.testing.assert_array_equal(model.second.scale[...], before)
  np.testing.assert_allclose(np.std(model.first(x), axis=0), 1, rtol=1e-4)


@for_each_library
def test_einsum_that_does_not_name_the_axes_of_its_kernel_is_left_alone_with_a_warning(library):
  axis = {'unit_axis': -1} if library is wn else {}
  einsum = library.Einsum('...i,...io->...o', (4, 3), rngs=nnx.Rngs(0), **axis)
  model = nnx.Sequential(library.Linear(4, 4, rngs=nnx.Rngs(0)), einsum)
  kernel = np.asarray(einsum.kernel[...])
  with pytest.warns(UserWarning, match=r'not initialized, as the kernel of .*: layers\.1$'):
    wn.data_dependent_init(model, random(50, 4))
  np.testing.assert_array_equal(einsum.kernel[...], kernel)
  np.testing.assert_allclose(model.layers[0](random(50, 4)).std(0), 1, atol=1e-4)


class OfItsOwn(nnx.Linear):
  """Reads its kernel itself, and takes other arguments than `nnx.Linear`."""

  def __call__(self, x, gain=None, *, train=False):
    y = x @ wn.weight(self) + jnp.expand_dims(self.bias[...], 0)
    return y if gain is None else y * gain


class Calling(nnx.Module):
  def __init__(self, call, layer):
    self.layer, self.call = layer, call

  def __call__(self, x):
    return self.call(self.layer, x)


@pytest.mark.parametrize(
  'call',
  [
    lambda layer, x: layer(x, train=True),
    lambda layer, x: layer(x=x),
    lambda layer, x: layer(x, jnp.ones((1, 5))),
    lambda layer, x: layer(gain=jnp.ones((1, 5)), x=x),
  ],
)
def test_a_forward_pass_of_its_own_with_other_arguments(call):
  model, x = Calling(call, OfItsOwn(4, 5, rngs=nnx.Rngs(0))), random(50, 4)
  wn.data_dependent_init(model, x)
  assert_moments(model(x), 0, 1)


def test_a_forward_pass_of_its_own_of_something_else_is_left_alone():
  class OfPairs(nnx.Linear):
    def __call__(self, pair):
      return nnx.Linear.__call__(self, pair[0]) + pair[1]

  model = Calling(lambda layer, x: layer((x, x)), OfPairs(4, 4, rngs=nnx.Rngs(0)))
  with pytest.warns(UserWarning, match='first argument of their forward pass is not an array: lay'):
    wn.data_dependent_init(model, random(50, 4))


def test_an_einsum_that_is_called_with_another_string():
  layer, x = wn.Einsum('bi,io->bo', (4, 5), None, rngs=nnx.Rngs(0)), random(50, 4)
  wn.data_dependent_init(layer, x, 'bi,io->ob')
  np.testing.assert_allclose(np.std(layer(x), axis=0), 1, rtol=1e-5)  # no bias, any mean


class Noisy(nnx.Linear):
  def __call__(self, x, *, rngs=None):
    self.was_noisy = rngs is not None
    return nnx.Linear.__call__(self, x)


def test_layers_get_the_arguments_that_they_get_without_it():
  """`nnx.Sequential` passes `rngs` to what has such an argument."""
  model = nnx.Sequential(Noisy(4, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 4, rngs=nnx.Rngs(1)))
  wn.data_dependent_init(model, random(50, 4), rngs=nnx.Rngs(0))
  assert model.layers[0].was_noisy


class Replaces(nnx.Module):
  def __init__(self):
    self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

  def __call__(self, x):
    self.linear = nnx.merge(*nnx.split(self.linear))
    return self.linear(x)


def test_a_copy_that_the_forward_pass_keeps_has_its_class():
  model = Replaces()
  with pytest.warns(UserWarning, match='not initialized'):
    wn.data_dependent_init(model, random(50, 4))
  assert type(model.linear) is nnx.Linear
