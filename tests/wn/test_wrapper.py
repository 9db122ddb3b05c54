"""`wn.WeightNorm`: any parameter of any module, against float64 NumPy."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def f64(x):
  return np.asarray(x).astype(np.float64)


def close(actual, expected, tolerance=1e-5):
  np.testing.assert_allclose(f64(actual), f64(expected), rtol=tolerance, atol=tolerance)


def numbers(model):
  return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat))))


class Holder(nnx.Module):
  def __init__(self, **attributes):
    for name, value in attributes.items():
      setattr(self, name, value)


class Cell(nnx.Module):
  """A recurrent cell with two weights, a helper method, running statistics and dropout."""

  def __init__(self, features=4, *, seed=0):
    self.w_x = nnx.Param(random(3, features, seed=seed))
    self.w_h = nnx.Param(random(features, features, seed=seed + 1))
    self.norm = nnx.BatchNorm(features, rngs=nnx.Rngs(0))
    self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    self.block = nnx.Linear(features, features, rngs=nnx.Rngs(1))

  def project(self, h, x):
    return x @ self.w_x[...] + h @ self.w_h[...]

  def __call__(self, h, x):
    return self.block(self.drop(jnp.tanh(self.norm(self.project(h, x)))))


def in_evaluation(cell):
  cell.eval()
  return cell


def eq2(v, g, axes):
  return f64(g) * f64(v) / np.sqrt(np.sum(f64(v) ** 2, axes, keepdims=True))


@pytest.mark.parametrize(
  ('names', 'unit_axis', 'log_scale'),
  [
    ('w_x', -1, False),
    (('w_x', 'w_h'), 0, False),
    ('block.kernel', None, 2.0),
    (['w_h', 'block.kernel'], (0, 1), True),
  ],
)
def test_starts_as_the_module_it_holds(names, unit_axis, log_scale):
  cell, plain = in_evaluation(Cell()), in_evaluation(Cell())
  wrapped = wn.WeightNorm(cell, names, unit_axis=unit_axis, log_scale=log_scale)
  h, x = random(2, 4), random(2, 3)
  close(wrapped(h, x), plain(h, x))
  for scale in wrapped.scales.values():
    assert scale.ndim == {-1: 1, 0: 1, (0, 1): 2, None: 0}[unit_axis]


@pytest.mark.parametrize(
  ('unit_axis', 'axes', 'shape'), [(-1, 0, (1, 4)), (0, 1, (3, 1)), (None, (0, 1), ())]
)
def test_weight_is_that_of_eq_2(unit_axis, axes, shape):
  wrapped = wn.WeightNorm(in_evaluation(Cell()), 'w_x', unit_axis=unit_axis)
  g = random(*wrapped.scales['w_x'].shape, seed=5)
  wrapped.scales['w_x'][...] = g
  w = eq2(wrapped.module.w_x, np.reshape(g, shape), axes)
  close(wrapped.normalized_kernel('w_x'), w)
  h, x = random(2, 4), random(2, 3)
  close(wrapped.normalized_module().project(h, x), f64(x) @ w + f64(h) @ f64(wrapped.module.w_h))
  plain = in_evaluation(Cell())
  plain.w_x[...] = jnp.asarray(w, jnp.float32)
  close(wrapped(h, x), plain(h, x))


def test_gradients_are_those_of_eq_3():
  wrapped = wn.WeightNorm(in_evaluation(Cell()), ('w_x', 'w_h'))
  wrapped.scales['w_x'][...] = jnp.asarray([0.5, -2.0, 1.0, 3.0])
  plain = in_evaluation(Cell())
  plain.w_x[...] = wrapped.normalized_kernel('w_x')
  h, x = random(2, 4), random(2, 3)
  loss = lambda cell: jnp.sum(cell(h, x) ** 3)
  actual, dw = nnx.grad(loss)(wrapped), f64(nnx.grad(loss)(plain).w_x)
  v, g = f64(wrapped.module.w_x), f64(wrapped.scales['w_x'])
  norm = np.linalg.norm(v, axis=0)
  dg = np.sum(dw * v, 0) / norm
  close(actual.scales['w_x'], dg)
  close(actual.module.w_x, g / norm * (dw - dg * v / norm))
  close(np.sum(f64(actual.module.w_x) * v, 0), 0)
  assert (f64(actual.scales['w_h']) != 0).all()


def test_forward_pass_writes_statistics_and_counts_but_no_parameter():
  wrapped, plain = wn.WeightNorm(Cell(), ('w_x', 'block.kernel')), Cell()
  before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(wrapped, nnx.Param)))
  h, x = random(2, 4), random(2, 3)
  close(wrapped(h, x), plain(h, x))
  after = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert (wrapped.module.norm.mean[...] != 0).all()
  close(wrapped.module.norm.mean, plain.norm.mean)
  assert wrapped.module.drop.rngs.count[...] == plain.drop.rngs.count[...] == 1
  assert not np.allclose(wrapped(h, x), wrapped(h, x)), 'dropout draws the same mask again'


def test_works_under_nnx_jit_and_jax_jit():
  wrapped = wn.WeightNorm(Cell(), ('w_x', 'block.kernel'))
  other = nnx.clone(wrapped)
  h, x = random(2, 4), random(2, 3)
  y = wrapped(h, x)
  statistics = numbers(wrapped)
  graphdef, state = nnx.split(other)

  @jax.jit
  def run(state):
    model = nnx.merge(graphdef, state)
    return model(h, x), nnx.state(model, (nnx.Param, nnx.BatchStat))

  y_jax, state = run(state)
  close(y_jax, y)
  jax.tree.map(close, nnx.to_pure_dict(state), statistics)
  close(nnx.jit(lambda model: model(h, x))(other), y)
  jax.tree.map(close, numbers(other), statistics)


@nnx.vmap
def stack_of_cells(key):
  seed = jax.random.normal(key, ())
  cell = in_evaluation(Cell())
  cell.w_x[...] = cell.w_x[...] + seed
  return wn.WeightNorm(cell, ('w_x', 'block.kernel'), unit_axis=1)


def test_stack_runs_and_folds_like_single_modules():
  stack = stack_of_cells(jax.random.split(jax.random.key(0), 3))
  assert stack.scales['w_x'].shape == (3, 4)
  stack.scales['w_x'][...] = random(3, 4, seed=3)
  h, x = random(3, 2, 4), random(3, 2, 3)
  y = nnx.vmap(lambda cell, h, x: cell(h, x))(stack, h, x)
  folded = wn.fold(stack)
  assert type(folded) is Cell
  for i, v in enumerate(f64(stack.module.w_x)):
    close(folded.w_x[i], eq2(v, stack.scales['w_x'][i], 0))
  close(nnx.vmap(lambda cell, h, x: cell(h, x))(folded, h, x), y)


def test_in_place_of_the_nnx_wrapper():
  plain = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
  layer = wn.WeightNorm(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), 'kernel')
  of_nnx = nnx.WeightNorm(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
  x = random(5, 3)
  close(layer(x), plain(x))
  layer.scales['kernel'][...] = jnp.ones(4)  # where nnx.WeightNorm starts
  close(layer(x), of_nnx(x))
  assert jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(layer.module))) == jax.tree.map(
    jnp.shape, nnx.to_pure_dict(nnx.state(of_nnx.layer_instance))
  )


def test_two_layers_of_a_sequence():
  model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), jnp.tanh)
  wrapped = wn.WeightNorm(model, 'layers.0.kernel')
  wrapped.scales['layers.0.kernel'][...] *= 2
  w = 2 * f64(model.layers[0].kernel)
  close(wrapped(random(5, 3)), np.tanh(f64(random(5, 3)) @ w))


class WithAlias(nnx.Module):
  """One layer under two names."""

  def __init__(self):
    self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    self.all = nnx.List([self.first])

  def __call__(self, x):
    return self.first(x) - self.all[0](x)


def test_every_reference_to_a_parameter_sees_the_weight():
  model = wn.WeightNorm(WithAlias(), 'first.kernel')
  model.scales['first.kernel'][...] *= 3
  close(model(random(2, 4)), 0)
  close(wn.fold(model)(random(2, 4)), 0)


class Sower(nnx.Module):
  def __init__(self):
    self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    self.calls = 0

  def __call__(self, x):
    self.calls += 1
    self.sow(nnx.Intermediate, 'hidden', x)
    return self.layer(x)


def test_attributes_that_the_forward_pass_sets_are_kept():
  wrapped = wn.WeightNorm(Sower(), 'layer.kernel')
  kernel = wrapped.module.layer.kernel
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    wrapped(jnp.ones((1, 4)))
    wrapped(jnp.ones((1, 4)))
  assert wrapped.module.calls == 2
  assert len(wrapped.module.hidden.get_value()) == 2
  assert wrapped.module.layer.kernel is kernel


def test_intermediates_can_be_captured():
  x = random(1, 4)
  model = Holder(inner=wn.WeightNorm(Sower(), 'layer.kernel'))
  y, found = nnx.capture(lambda model, x: model.inner(x), nnx.Intermediate)(model, x)
  close(y, model.inner.normalized_module().layer(x))
  close(found['inner']['module']['hidden'][0], x)


def test_recurrent_network_normalizes_its_cell():
  rnn = nnx.RNN(nnx.SimpleCell(3, 4, rngs=nnx.Rngs(0)))
  wrapped = wn.WeightNorm(nnx.clone(rnn), ('cell.dense_h.kernel', 'cell.dense_i.kernel'))
  x = random(2, 5, 3)
  close(wrapped(x), rnn(x))
  gradient = nnx.grad(lambda rnn: jnp.sum(rnn(x) ** 2))(wrapped)
  assert all((f64(g) != 0).all() for g in jax.tree.leaves(gradient.scales))


# fold.


def test_fold_unwraps_the_whole_model():
  wrapped = wn.WeightNorm(in_evaluation(Cell()), ('w_x', 'block.kernel'), log_scale=True)
  wrapped.scales['w_x'][...] += 1
  before = numbers(wrapped)
  folded = wn.fold(wrapped)
  assert nnx.graphdef(folded) == nnx.graphdef(in_evaluation(Cell()))
  h, x = random(2, 4), random(2, 3)
  close(folded(h, x), wrapped(h, x))
  jax.tree.map(np.testing.assert_array_equal, numbers(wrapped), before)


def test_fold_unwraps_in_lists_and_dicts_and_keeps_sharing():
  layer = wn.WeightNorm(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), 'kernel')
  layer.scales['kernel'][...] *= 2
  model = Holder(
    a=layer, b=layer, list=nnx.List([layer]), dict=nnx.Dict(x=layer), data=nnx.data([layer])
  )
  folded = wn.fold(model)
  for unwrapped in (folded.b, folded.list[0], folded.dict['x'], folded.data[0]):
    assert unwrapped is folded.a
  assert type(folded.a) is nnx.Linear
  close(folded.a.kernel, 2 * f64(layer.module.kernel))
  assert model.a is layer


def test_fold_unwraps_wrappers_in_wrappers():
  inner = wn.WeightNorm(wn.Linear(4, 4, rngs=nnx.Rngs(0)), 'bias', unit_axis=None)
  outer = wn.WeightNorm(Holder(w=nnx.Param(random(4, 4)), inner=inner), 'w')
  outer.scales['w'][...] *= 2
  for model in (outer, Holder(list=nnx.List([outer]))):
    folded = wn.fold(model)
    folded = folded.list[0] if model is not outer else folded
    assert type(folded) is Holder
    assert type(folded.inner) is nnx.Linear
    close(folded.w, 2 * random(4, 4))


def test_fold_of_shapes_is_an_error_that_says_what_to_do():
  create = lambda: Holder(block=wn.WeightNorm(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), 'kernel'))
  with pytest.raises(TypeError, match=r'block.*shapes without values.*inside nnx\.eval_shape'):
    wn.fold(nnx.eval_shape(create))
  folded = nnx.eval_shape(lambda: wn.fold(create()))
  assert folded.block.kernel.get_value().shape == (4, 4)


# Errors.


def test_names_that_are_no_parameters_are_errors():
  with pytest.raises(AttributeError, match='w_y'):
    wn.WeightNorm(Cell(), 'w_y')
  with pytest.raises(AttributeError, match='block of Cell is not a parameter'):
    wn.WeightNorm(Cell(), 'block')
  with pytest.raises(ValueError, match='unit_axis=2'):
    wn.WeightNorm(Cell(), 'w_x', unit_axis=2)
  with pytest.raises(ValueError, match='log_scale'):
    wn.WeightNorm(Cell(), 'w_x', log_scale=-1)


def test_zero_parameter_starts_at_zero_and_moves_by_the_step():
  layer = nnx.Linear(4, 3, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
  layer = wn.WeightNorm(layer, 'kernel')
  x = random(5, 4)
  close(layer(x), 0)
  gradient = nnx.grad(lambda layer: jnp.sum(layer(x)))(layer)
  update = lambda p, d: p - 1e-6 * d
  nnx.update(layer, jax.tree.map(update, nnx.state(layer, nnx.Param), gradient))
  assert 0 < np.abs(layer.normalized_kernel('kernel')).max() < 1e-4
