"""`wn.unfold` and `wn.fold` of subclasses, stacks and typical models."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.test_conversion import (
  Holder,
  close,
  descend,
  kinds,
  linear,
  random,
)

# Subclasses.


class Named(nnx.Linear):
  """Adds to its parent, and keeps its forward pass."""

  def __init__(self, n_in, n_out, *, label, rngs):
    super().__init__(n_in, n_out, rngs=rngs)
    self.label = label
    self.extra = nnx.Param(jnp.ones(3))

  def describe(self):
    return f'{self.label}: {self.in_features}'


class Scaled(nnx.Linear):
  def __call__(self, x):
    return 2 * super().__call__(x)


def test_subclass_without_forward_pass_is_converted_and_folded_back():
  model, x = Named(4, 5, label='mine', rngs=nnx.Rngs(0)), random(3, 4)
  unfolded = wn.unfold(model)
  assert isinstance(unfolded, Named) and isinstance(unfolded, wn.Linear)
  assert unfolded.describe() == 'mine: 4'
  unfolded.scale[...] *= 2
  unfolded.extra[...] += 1
  close(unfolded(x), 2 * model(x))
  folded = wn.fold(unfolded)
  assert type(folded) is Named
  assert nnx.graphdef(folded) == nnx.graphdef(model)
  close(folded(x), 2 * model(x))
  close(folded.extra, 2)
  assert 'wn.Named' in wn.summary(unfolded)


def test_converted_subclass_under_split_merge_jit_and_copies():
  model, x = wn.unfold(Named(4, 5, label='mine', rngs=nnx.Rngs(0))), random(3, 4)
  other = wn.unfold(Named(4, 5, label='mine', rngs=nnx.Rngs(1)))
  assert type(other) is type(model), 'one class, so that jit compiles once'
  assert nnx.graphdef(other) == nnx.graphdef(model)
  graphdef, state = nnx.split(model)
  assert type(nnx.merge(graphdef, state)) is type(model)
  close(nnx.jit(lambda model, x: model(x))(model, x), model(x))
  close(copy.deepcopy(model)(x), model(x))
  again = type(model)(4, 5, label='new', rngs=nnx.Rngs(0))
  close(again(x), model(x))


@pytest.mark.parametrize('library', ['pickle', 'cloudpickle'])
def test_converted_subclass_can_be_pickled(library):
  library = pytest.importorskip(library)
  model, x = wn.unfold(Named(4, 5, label='mine', rngs=nnx.Rngs(0))), random(3, 4)
  again = pickle.loads(library.dumps(model))
  assert type(again) is type(model)
  close(again(x), model(x))
  assert type(wn.fold(again)) is Named


def test_subclass_with_its_own_forward_pass_is_left_alone():
  model, x = Holder(a=Scaled(4, 4, rngs=nnx.Rngs(0)), b=linear()), random(3, 4)
  with pytest.warns(
    UserWarning, match=r'a \(Scaled may have its own forward pass: see wn.register\)'
  ):
    unfolded = wn.unfold(model)
  assert kinds(unfolded) == {'b'}
  close(unfolded.a(x), model.a(x))


class ReadsOwnKernel(nnx.Linear):
  def penalty(self):
    return jnp.sum(self.kernel[...] ** 2)


def test_subclass_with_another_method_that_reads_the_kernel_is_left_alone():
  with pytest.warns(UserWarning, match='ReadsOwnKernel'):
    assert kinds(wn.unfold(Holder(a=ReadsOwnKernel(4, 4, rngs=nnx.Rngs(0))))) == set()


# register.


class CausalConv(nnx.Conv):
  """Convolution over the past: WaveNet's (van den Oord et al. 2016)."""

  def __call__(self, x):
    left = (self.kernel_size[0] - 1) * self.kernel_dilation
    return super().__call__(jnp.pad(x, ((0, 0), (left, 0), (0, 0))))


class NormalizedCausalConv(CausalConv, wn.Conv):
  pass


wn.register(CausalConv, NormalizedCausalConv)


class LabelledConv(CausalConv):
  """Of a registered class, without a forward pass of its own."""

  label = 'mine'


class WaveNetBlock(nnx.Module):
  def __init__(self, rngs, cls=CausalConv):
    make = lambda: cls(4, 4, 2, kernel_dilation=2, padding='VALID', rngs=rngs)
    self.filter, self.gate = make(), make()
    self.residual = nnx.Conv(4, 4, 1, rngs=rngs)

  def __call__(self, x):
    return x + self.residual(jnp.tanh(self.filter(x)) * nnx.sigmoid(self.gate(x)))


@pytest.mark.parametrize('cls', [CausalConv, LabelledConv])
def test_registered_class_is_converted_in_both_directions(cls):
  plain, x = WaveNetBlock(nnx.Rngs(0), cls), random(2, 8, 4)
  model = wn.unfold(plain)
  assert kinds(model) == {'filter', 'gate', 'residual'}
  assert isinstance(model.gate, NormalizedCausalConv) and isinstance(model.gate, cls)
  close(model(x), plain(x))
  model.gate.scale[...] *= 3
  w = np.asarray(plain.gate.kernel)
  folded = wn.fold(model)
  assert nnx.graphdef(folded) == nnx.graphdef(plain)
  close(folded.gate.kernel, 3 * w)
  close(folded(x), model(x))
  moved = model(x.at[:, 5].add(1.0)) - model(x)
  assert not moved[:, :5].any() and moved[:, 5:].any()


def test_subclass_of_a_registered_normalized_class_folds():
  class Mine(NormalizedCausalConv):
    pass

  layer, x = Mine(4, 4, 2, padding='VALID', rngs=nnx.Rngs(0)), random(2, 8, 4)
  folded = wn.fold(layer)
  assert type(folded) is CausalConv
  close(folded(x), layer(x))


@pytest.mark.parametrize(
  ('plain', 'normalized'),
  [(nnx.LayerNorm, wn.Linear), (CausalConv, wn.Linear), (wn.Conv, wn.Conv), (Scaled, Scaled)],
)
def test_register_refuses_classes_that_do_not_match(plain, normalized):
  with pytest.raises(TypeError, match='must be a subclass of'):
    wn.register(plain, normalized)


# Stacks.


@nnx.vmap
def plain_stack(key):
  return nnx.Linear(4, 4, rngs=nnx.Rngs(key), bias_init=nnx.initializers.normal())


@nnx.vmap
def normalized_stack(key):
  return wn.Linear(4, 4, rngs=nnx.Rngs(key), bias_init=nnx.initializers.normal())


KEYS = jax.random.split(jax.random.key(0), 3)


@nnx.scan(in_axes=(nnx.StateAxes({...: 0}), nnx.Carry), out_axes=nnx.Carry)
def scanned(layer, x):
  return jnp.tanh(layer(x))


def looped(layers, x, g):
  """In NumPy and float64."""
  x = np.asarray(x, np.float64)
  for v, g_l, b in zip(np.asarray(layers.kernel, np.float64), g, np.asarray(layers.bias)):
    x = np.tanh(x @ (g_l * v / np.linalg.norm(v, axis=0)) + b)
  return x


def test_unfold_of_a_stack_gives_every_layer_its_own_g():
  plain, x = plain_stack(KEYS), random(2, 4)
  stack = wn.unfold(plain)
  assert stack.scale.shape == (3, 4)
  norms = np.linalg.norm(np.asarray(plain.kernel, np.float64), axis=1)
  close(stack.scale, norms)
  close(scanned(stack, x), looped(plain, x, norms))
  again = wn.fold(stack)
  assert nnx.graphdef(again) == nnx.graphdef(plain)
  close(again.kernel, plain.kernel)


def test_stack_of_normalized_layers_is_a_loop_over_single_ones():
  stack, x = normalized_stack(KEYS), random(2, 4)
  assert stack.scale.shape == (3, 4)
  g = np.random.default_rng(3).normal(size=(3, 4))
  stack.scale[...] = jnp.asarray(g, jnp.float32)
  expected = looped(stack, x, g)
  close(scanned(stack, x), expected)
  close(scanned(wn.fold(stack), x), expected)
  close(wn.weight(stack), wn.fold(stack).kernel)
  stack.set_weight(wn.weight(stack))
  close(scanned(stack, x), expected)


def test_gradients_of_a_stack_are_finite_differences():
  stack, x = normalized_stack(KEYS), random(2, 4)
  gradients = nnx.grad(lambda stack: jnp.sum(scanned(stack, x) ** 2))(stack)
  g = np.asarray(stack.scale, np.float64)
  loss = lambda g: np.sum(looped(stack, x, g) ** 2)
  slope = np.zeros(g.shape)
  for i in np.ndindex(g.shape):
    step = np.zeros(g.shape)
    step[i] = 1e-6
    slope[i] = (loss(g + step) - loss(g - step)) / 2e-6
  close(gradients.scale, slope, 1e-4)
  close(np.sum(np.asarray(gradients.kernel * stack.kernel), 1), np.zeros((3, 4)), 1e-4)


def test_stacks_of_other_layers_and_of_stacks():
  conv = nnx.vmap(lambda key: nnx.Conv(4, 6, (2,), feature_group_count=2, rngs=nnx.Rngs(key)))(KEYS)
  general = nnx.vmap(lambda key: nnx.LinearGeneral(4, (2, 3), rngs=nnx.Rngs(key)))(KEYS)
  embed = nnx.vmap(lambda key: nnx.Embed(5, 4, rngs=nnx.Rngs(key)))(KEYS)
  twice = nnx.vmap(nnx.vmap(lambda key: linear_of(key)))(KEYS.reshape(3, 1))
  shapes = [wn.unfold(layer).scale.shape for layer in (conv, general, embed, twice)]
  assert shapes == [(3, 6), (3, 2, 3), (3, 5), (3, 1, 4)]


def linear_of(key):
  return nnx.Linear(4, 4, rngs=nnx.Rngs(key))


# Typical models.


class Glu(nnx.Module):
  """Gated convolutions, depthwise and pointwise (Dauphin et al. 2017; Wu et al. 2019)."""

  def __init__(self, rngs):
    self.wide = nnx.Conv(4, 8, 3, padding='CAUSAL', rngs=rngs)
    self.depthwise = nnx.Conv(4, 4, 3, feature_group_count=4, rngs=rngs)
    self.out = nnx.Conv(4, 4, 1, rngs=rngs)

  def __call__(self, x):
    return self.out(self.depthwise(nnx.glu(self.wide(x))))


def test_gated_and_depthwise_convolutions():
  plain, x = Glu(nnx.Rngs(0)), random(2, 6, 4)
  model = wn.unfold(plain)
  close(model(x), plain(x))
  v = np.asarray(plain.depthwise.kernel, np.float64)  # [3, 1, 4]
  close(model.depthwise.scale, np.linalg.norm(v[:, 0], axis=0))
  descend(model, lambda model: jnp.mean(model(x) ** 2))
  close(wn.fold(model)(x), model(x))


@pytest.mark.parametrize('cell', [nnx.SimpleCell, nnx.OptimizedLSTMCell])
def test_recurrent_networks(cell):
  plain, x = nnx.RNN(cell(3, 4, rngs=nnx.Rngs(0))), random(2, 5, 3)
  model = wn.unfold(plain)
  assert kinds(model) == {'cell.dense_i', 'cell.dense_h'}
  close(model(x), plain(x))
  model.cell.dense_h.scale[...] *= 2
  close(wn.fold(model)(x), model(x))
  assert nnx.graphdef(wn.fold(model)) == nnx.graphdef(plain)


def test_fold_and_unfold_of_shapes_are_errors_that_say_what_to_do():
  shapes = nnx.eval_shape(lambda: wn.Linear(3, 4, rngs=nnx.Rngs(0)))
  with pytest.raises(TypeError, match=r'cannot fold .*nnx\.eval_shape\(lambda: wn\.fold\('):
    wn.fold(shapes)
  with pytest.raises(TypeError, match=r'cannot unfold .*nnx\.eval_shape\(lambda: wn\.unfold\('):
    wn.unfold(nnx.eval_shape(linear))
  assert nnx.eval_shape(lambda: wn.unfold(linear())).scale.get_value().shape == (4,)
  assert '[4]' in wn.summary(shapes)


def test_summary_of_parameters_that_are_no_arrays():
  model = Holder(parameter=nnx.Param({'a': jnp.ones((2, 2))}), layer=linear())
  assert 'layer.kernel' in wn.summary(model)


class ReadsV(nnx.Module):
  def __init__(self):
    self.layer = wn.Linear(3, 3, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return self.layer(x) @ self.layer.kernel[...].T


def test_fold_warns_of_a_kernel_that_the_model_reads():
  with pytest.warns(UserWarning, match=r'wn\.fold: ReadsV\.__call__ reads the kernel of layer'):
    wn.fold(ReadsV())


def test_a_filter_that_chooses_nothing_is_a_warning():
  model = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
  with pytest.warns(UserWarning, match='the filter chooses none of the layers'):
    unfolded = wn.unfold(model, filter=nnx.Conv)
  assert type(unfolded) is nnx.Linear


class LoopsOverLayers(nnx.Module):
  def __init__(self):
    self.layers = nnx.List([nnx.Linear(3, 3, rngs=nnx.Rngs(0))])

  def penalty(self):
    return sum(layer.kernel[...].sum() for layer in self.layers)


def test_unfold_warns_of_reads_that_it_cannot_tell():
  with pytest.warns(
    UserWarning, match=r'LoopsOverLayers\.penalty may read or set the kernel of a layer'
  ):
    wn.unfold(LoopsOverLayers())
