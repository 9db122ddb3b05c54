"""Calls that would do nothing, or another thing than was meant, say so."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import assert_close, random


def linear(cls=nnx.Linear, n_in=4, n_out=4):
  return cls(n_in, n_out, rngs=nnx.Rngs(0))


class Stack(nnx.Module):
  """Reads kernels through a local variable."""

  def __init__(self, cls):
    self.layers = nnx.List([linear(cls) for _ in range(2)])

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    for layer in reversed(self.layers):
      x = x @ layer.kernel[...].T
    return x


def test_fold_warns_of_kernels_that_the_model_reads_through_a_variable():
  with pytest.warns(UserWarning, match=r'wn.fold: Stack.__call__ may read or set the kernel'):
    wn.fold(Stack(wn.Linear))


@pytest.mark.parametrize('verb', ['fold', 'unfold'])
@pytest.mark.parametrize(
  'model', [nnx.state(linear(wn.Linear)), {'kernel': jnp.ones((2, 2))}, nn.Dense(4), 'model']
)
def test_what_holds_no_modules_is_refused(verb, model):
  message = rf'wn.{verb} needs an nnx.Module.* got {type(model).__name__}. .* wn.linen.{verb}'
  with pytest.raises(TypeError, match=message):
    getattr(wn, verb)(model)


def test_lists_and_dicts_of_modules_are_models():
  assert isinstance(wn.unfold([linear()])[0], wn.Linear)
  assert type(wn.fold({'a': linear(wn.Linear)})['a']) is nnx.Linear


def test_unfold_of_a_model_without_layers_warns():
  with pytest.warns(UserWarning, match=r'wn.unfold: BatchNorm has no layers to convert'):
    wn.unfold(nnx.BatchNorm(4, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
  'arguments', [{'unit_axis': None}, {'unit_axis': 0}, {'log_scale': True}, {'log_scale': 3}]
)
def test_unfold_names_normalized_layers_that_have_other_arguments(arguments):
  model = nnx.Sequential(linear(wn.Linear), linear())
  with pytest.warns(UserWarning, match=r'layers\.0 \(is normalized already, with another') as seen:
    wn.unfold(model, **arguments)
  assert len(seen) == 1
  again = wn.unfold(wn.unfold(linear(), **arguments), **arguments)  # no warning: a mistake here
  assert again.unit_axis == wn.unfold(linear(), **arguments).unit_axis


STACKED = nnx.StateAxes({nnx.Param: 1, ...: 0})


def stack(cls, count):
  create = nnx.vmap(lambda rngs: cls(4, 4, rngs=rngs), in_axes=0, out_axes=STACKED)
  return create(nnx.Rngs(0).split(count))


def test_a_stack_of_pruned_layers_is_one():
  layers = nnx.vmap(lambda rngs: wn.Linear(4, 8, rngs=rngs))(nnx.Rngs(0).split(3))
  layers.kernel = nnx.Param(layers.kernel[...][:, :, :5])
  layers.scale = nnx.Param(layers.scale[...][:, :5])
  layers.bias = nnx.Param(layers.bias[...][:, :5])
  forward = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))
  assert_close(forward(wn.fold(layers), random(2, 4)), forward(layers, random(2, 4)))


def test_stacks_along_another_axis_are_left_alone():
  with pytest.warns(UserWarning, match=r'must be stacked along the first axes .*got \(4, 3, 4\)'):
    assert type(wn.unfold(stack(nnx.Linear, 3))) is nnx.Linear
  for function in (wn.weight, wn.fold):
    with pytest.raises(ValueError, match=r'\(…, 4, 4\); got \(4, 3, 4\)'):
      function(stack(wn.Linear, 3))


class Backbone(nnx.Param):
  pass


def test_g_is_trained_and_frozen_with_its_kernel():
  layer = linear()
  layer.kernel = Backbone(layer.kernel[...])
  for wanted, trained in ((Backbone, True), (nnx.All(nnx.Param, nnx.Not(Backbone)), False)):
    model = wn.unfold(layer)
    before = jax.tree.map(jnp.copy, (model.kernel[...], model.scale[...]))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=wanted)
    loss = lambda model: (model(random(3, 4)) ** 2).mean()
    optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, wanted))(model))
    moved = [bool((a != b).any()) for a, b in zip(before, (model.kernel[...], model.scale[...]))]
    assert moved == [trained, trained]


def test_a_type_of_parameters_with_its_own_constructor():
  class Grouped(nnx.Param):
    def __init__(self, value, group):
      assert value.ndim == 2
      super().__init__(value, decay=group == 'decayed')

  layer = linear()
  layer.kernel = Grouped(layer.kernel[...], 'decayed')
  scale = wn.unfold(layer).scale
  assert type(scale) is Grouped and scale.get_metadata('decay') and scale.shape == (4,)


def test_two_names_of_one_parameter_are_refused():
  model = nnx.Sequential(linear(), linear())
  model.layers[1].kernel = model.layers[0].kernel
  pair = nnx.Dict(a=model.layers[0], b=model.layers[1])
  with pytest.raises(ValueError, match=r'a.kernel and b.kernel are one parameter'):
    wn.WeightNorm(pair, ('a.kernel', 'b.kernel'))


@pytest.mark.parametrize('function', [wn.weight, wn.unit_axes])
def test_weights_of_what_is_no_layer(function):
  with pytest.raises(TypeError, match='BatchNorm is not a layer that wn knows'):
    function(nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
  with pytest.raises(TypeError, match='WeightNorm is not a layer that wn knows'):
    function(wn.WeightNorm(linear(), 'kernel'))


def test_the_weight_of_a_shape():
  with pytest.raises(TypeError, match='the kernel of a Linear is a shape without values'):
    wn.weight(nnx.eval_shape(lambda: linear(wn.Linear)))


def test_an_attribute_that_is_not_there_is_not_replaced():
  with pytest.raises(AttributeError, match="Linear has no attribute 'kernal' to replace"):
    wn.replace(linear(wn.Linear), kernal=jnp.ones((4, 4)))


def test_the_weight_of_a_view():
  layer = linear()
  assert_close(wn.weight(wn.replace(layer, kernel=jnp.ones((4, 4)))), jnp.ones((4, 4)))


def test_the_filter_of_unfold_sees_plain_layers_alone():
  model = nnx.Sequential(wn.Embed(3, 4, rngs=nnx.Rngs(0)), linear())
  unfolded = wn.unfold(model, filter=lambda path, layer: layer.in_features == 4)
  assert isinstance(unfolded.layers[1], wn.Linear)


def test_a_method_that_counts_weights_reads_none():
  class Counting(nnx.Module):
    def __init__(self):
      self.layers = nnx.List([linear(wn.Linear)])

    def num_weights(self):
      return sum(layer.kernel.size for layer in self.layers)

  wn.fold(Counting())  # a warning would be an error


def test_a_cell_with_a_start_of_its_own_does_not_fold():
  class Cell(wn.GRUCell):
    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
      return super().initialize_carry(input_shape, rngs, carry_init) + 1

  with pytest.raises(TypeError, match='Cell is a subclass of a wn cell'):
    wn.fold(Cell(4, 3, rngs=nnx.Rngs(0)))


def test_inputs_may_be_lists():
  model = nnx.Sequential(wn.Linear(2, 3, rngs=nnx.Rngs(0)))
  wn.data_dependent_init(model, [[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]])
  y = model(jnp.array([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]]))
  assert_close(y.std(0), jnp.ones(3), 1e-5)


@pytest.mark.parametrize('parent, plain', [(wn.LSTMCell, nnx.LSTMCell), (wn.GRUCell, nnx.GRUCell)])
def test_cells_of_a_subclass_without_a_forward_pass_of_its_own_fold(parent, plain):
  cell = type('Mine', (parent,), {})(4, 3, rngs=nnx.Rngs(0))
  folded = wn.fold(cell)
  assert type(folded) is plain
  carry = cell.initialize_carry((2, 4), nnx.Rngs(0))
  assert_close(folded(carry, random(2, 4))[1], cell(carry, random(2, 4))[1])
