"""Folding into plain layers, and back: same function, and nothing shared with the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from wn import convert

PLAIN = {
  wn.Linear: nnx.Linear,
  wn.Conv: nnx.Conv,
  wn.ConvTranspose: nnx.ConvTranspose,
  wn.LSTMCell: nnx.LSTMCell,
  wn.GRUCell: nnx.GRUCell,
}
for_each_log_scale = pytest.mark.parametrize('log_scale', [False, True, 3.0])


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def trained(model):
  """The model with random parameters: scales are not ‖v‖, and some are negative."""
  rng = np.random.default_rng(7)
  random_like = lambda p: jnp.asarray(0.5 * rng.normal(size=p.shape), p.dtype)
  nnx.update(model, jax.tree.map(random_like, nnx.state(model, nnx.Param)))
  return model


def numbers(model):
  """A copy of all the model's numbers."""
  return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))


def assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def module_types(model):
  return {path: type(module) for path, module in nnx.iter_modules(model)}


class Nested(nnx.Module):
  """Every kind of layer, in lists and dicts; one layer used under two names."""

  def __init__(self, library, **kwargs):
    rngs = nnx.Rngs(0)
    self.convs = nnx.List(
      [
        library.Conv(3, 4, (3, 3), rngs=rngs, **kwargs),
        library.ConvTranspose(4, 4, (3, 3), transpose_kernel=True, rngs=rngs, **kwargs),
      ]
    )
    self.norm = wn.MeanOnlyBatchNorm(4, rngs=rngs)
    self.heads = nnx.Dict(
      a=library.Linear(4, 4, use_bias=False, rngs=rngs, **kwargs),
      b=nnx.Sequential(library.Linear(4, 4, rngs=rngs, **kwargs), nnx.relu),
    )
    self.shared = self.heads.a
    self.cells = nnx.List(
      [library.LSTMCell(4, 4, rngs=rngs, **kwargs), library.GRUCell(4, 4, rngs=rngs, **kwargs)]
    )

  def __call__(self, x):
    for conv in self.convs:
      x = conv(x)
    x = jnp.tanh(self.norm(x, use_running_average=True)).mean((1, 2))
    x = self.heads.b(self.heads.a(x)) + self.shared(x)
    for cell in self.cells:
      carry = cell.initialize_carry(x.shape, nnx.Rngs(0))
      carry, x = cell(carry, x)
      _, x = cell(carry, x)
    return x


def nested_input():
  return random(5, 4, 4, 3)


# fold.


@for_each_log_scale
def test_folded_model_has_equal_outputs_and_plain_layers(log_scale):
  model, x = trained(Nested(wn, log_scale=log_scale)), nested_input()
  model.norm.mean[...] = random(4)
  folded = wn.fold(model)
  np.testing.assert_allclose(folded(x), model(x), atol=1e-6)
  types = module_types(model)
  assert set(types.values()) >= set(PLAIN)
  assert module_types(folded) == {path: PLAIN.get(cls, cls) for path, cls in types.items()}
  assert folded.heads.a is folded.shared
  assert all(path[-1] != 'scale' for path in nnx.to_flat_state(nnx.state(folded)).paths)


def test_folded_model_is_one_that_plain_layers_make():
  """Equal graphdefs: a checkpoint of the one loads into the other."""
  assert nnx.graphdef(wn.fold(Nested(wn))) == nnx.graphdef(Nested(nnx))


def test_fold_leaves_the_original_alone():
  model, x = trained(Nested(wn)), nested_input()
  graphdef, before, y = nnx.graphdef(model), numbers(model), model(x)
  folded = wn.fold(model)
  assert nnx.graphdef(model) == graphdef
  assert_same(numbers(model), before)
  nnx.update(folded, jax.tree.map(lambda leaf: leaf + 1, nnx.state(folded)))
  assert_same(numbers(model), before)
  np.testing.assert_array_equal(model(x), y)


def test_original_leaves_the_folded_model_alone():
  model = trained(Nested(wn))
  folded = wn.fold(model)
  before = numbers(folded)
  nnx.update(model, jax.tree.map(lambda leaf: leaf + 1, nnx.state(model)))
  assert_same(numbers(folded), before)


def test_fold_of_a_plain_model_is_a_copy():
  model = Nested(nnx)
  folded = wn.fold(model)
  assert folded is not model
  assert nnx.graphdef(folded) == nnx.graphdef(model)
  assert_same(numbers(folded), numbers(model))


LAYERS = [
  (wn.Linear, dict(in_features=3, out_features=4), (5, 3)),
  (wn.Conv, dict(in_features=3, out_features=4, kernel_size=(3, 2)), (2, 5, 4, 3)),
  (wn.ConvTranspose, dict(in_features=3, out_features=4, kernel_size=(3, 2)), (2, 5, 4, 3)),
  (
    wn.ConvTranspose,
    dict(in_features=3, out_features=4, kernel_size=(3, 2), transpose_kernel=True),
    (2, 5, 4, 3),
  ),
]
for_each_layer = pytest.mark.parametrize(('cls', 'kwargs', 'in_shape'), LAYERS)


@for_each_layer
def test_single_layer_folds_to_the_kernel_of_eq2(cls, kwargs, in_shape):
  layer, x = trained(cls(**kwargs, rngs=nnx.Rngs(0))), random(*in_shape)
  folded = wn.fold(layer)
  assert type(folded) is PLAIN[cls]
  assert nnx.graphdef(folded) == nnx.graphdef(PLAIN[cls](**kwargs, rngs=nnx.Rngs(0)))
  np.testing.assert_allclose(folded(x), layer(x), atol=1e-6)

  axis = -2 if kwargs.get('transpose_kernel') else -1
  units = lambda kernel: np.moveaxis(np.asarray(kernel, np.float64), axis, 0)
  for w, v, g in zip(units(folded.kernel), units(layer.kernel), np.asarray(layer.scale)):
    np.testing.assert_allclose(w, g / np.sqrt(np.sum(v**2)) * v, rtol=1e-6)
  np.testing.assert_array_equal(folded.bias[...], layer.bias[...])


@pytest.mark.parametrize('cls', [wn.LSTMCell, wn.GRUCell])
def test_single_cell_folds(cls):
  cell, x = trained(cls(3, 4, rngs=nnx.Rngs(0))), random(5, 3)
  folded = wn.fold(cell)
  assert nnx.graphdef(folded) == nnx.graphdef(PLAIN[cls](3, 4, rngs=nnx.Rngs(0)))
  carry = jax.tree.map(lambda zeros: zeros + 0.5, cell.initialize_carry(x.shape, nnx.Rngs(0)))
  np.testing.assert_allclose(folded(carry, x)[1], cell(carry, x)[1], atol=1e-6)


@for_each_layer
def test_masked_layer_folds_and_unfolds(cls, kwargs, in_shape):
  shape = cls(**kwargs, rngs=nnx.Rngs(0)).kernel.shape
  mask = jnp.asarray(np.indices(shape).sum(0) % 2, jnp.float32)
  layer, x = trained(cls(**kwargs, mask=mask, rngs=nnx.Rngs(0))), random(*in_shape)
  folded = wn.fold(layer)
  assert not (folded.kernel * (1 - mask)).any()
  np.testing.assert_allclose(folded(x), layer(x), atol=1e-6)
  np.testing.assert_allclose(wn.unfold(folded)(x), layer(x), atol=1e-6)


@pytest.mark.parametrize(
  'dtypes', [{'dtype': jnp.bfloat16}, {'param_dtype': jnp.bfloat16}, {'dtype': jnp.float16}]
)
def test_half_precision_outputs_are_equal(dtypes):
  layer, x = trained(wn.Linear(8, 4, **dtypes, rngs=nnx.Rngs(0))), random(5, 8)
  y, expected = wn.fold(layer)(x), layer(x)
  assert y.dtype == expected.dtype
  np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize('library', [wn, nnx], ids=['wn', 'nnx'])
def test_layers_with_a_tied_kernel_keep_their_own_weights(library):
  """The tied layer has its own g, or is plain: its w is not that of the first layer."""

  class Tied(nnx.Module):
    def __init__(self):
      self.first = wn.Linear(4, 4, rngs=nnx.Rngs(0))
      self.second = library.Linear(4, 4, rngs=nnx.Rngs(1))
      self.second.kernel = self.first.kernel

    def __call__(self, x):
      return self.second(jnp.tanh(self.first(x)))

  model, x = trained(Tied()), random(5, 4)
  np.testing.assert_allclose(wn.fold(model)(x), model(x), atol=1e-6)


def test_gradients_of_v_and_g_pass_through_fold():
  x = nested_input()
  graphdef, params, rest = nnx.split(trained(Nested(wn)), nnx.Param, ...)

  def gradients(fold):
    loss = lambda params: jnp.sum(fold(nnx.merge(graphdef, params, rest, copy=True))(x) ** 2)
    return nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))

  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
  jax.tree.map(close, gradients(wn.fold), gradients(lambda model: model))


def test_fold_under_jit():
  model, x = trained(Nested(wn)), nested_input()
  graphdef, state = nnx.split(model)

  @jax.jit
  def fold(state):
    folded = wn.fold(nnx.merge(graphdef, state))
    assert nnx.graphdef(folded) == nnx.graphdef(Nested(nnx))
    return nnx.state(folded), folded(x)

  folded_state, y = fold(state)
  np.testing.assert_allclose(y, model(x), atol=1e-6)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  jax.tree.map(close, nnx.to_pure_dict(folded_state), numbers(wn.fold(model)))


class MyLinear(wn.Linear):
  def __call__(self, x):
    return 2 * super().__call__(x)


class MyCell(wn.GRUCell):
  def __call__(self, carry, inputs):
    return super().__call__(carry, 2 * inputs)


class Holder(nnx.Module):
  def __init__(self, layer):
    self.layers = nnx.List([layer])


@pytest.mark.parametrize('cls', [MyLinear, MyCell])
def test_subclass_of_a_wn_layer_is_an_error_that_names_it(cls):
  layer = cls(4, 4, rngs=nnx.Rngs(0))
  with pytest.raises(TypeError, match=rf'the model.*{cls.__name__}'):
    wn.fold(layer)
  with pytest.raises(TypeError, match=rf'layers\.0.*{cls.__name__}'):
    wn.fold(Holder(layer))
  assert type(layer) is cls


# unfold.


@for_each_log_scale
def test_unfolded_model_has_equal_outputs_and_wn_layers(log_scale):
  model, x = trained(Nested(nnx)), nested_input()
  unfolded = wn.unfold(model, log_scale=log_scale)
  np.testing.assert_allclose(unfolded(x), model(x), atol=1e-6)
  assert module_types(unfolded) == module_types(Nested(wn))
  assert nnx.graphdef(unfolded) == nnx.graphdef(Nested(wn, log_scale=log_scale))
  assert unfolded.heads.a is unfolded.shared


@for_each_layer
@for_each_log_scale
def test_unfold_takes_v_from_w_and_g_from_its_norm(cls, kwargs, in_shape, log_scale):
  layer = trained(PLAIN[cls](**kwargs, rngs=nnx.Rngs(0)))
  unfolded = wn.unfold(layer, log_scale=log_scale)
  assert type(unfolded) is cls
  np.testing.assert_array_equal(unfolded.kernel[...], layer.kernel[...])
  w = np.moveaxis(np.asarray(layer.kernel), -2 if kwargs.get('transpose_kernel') else -1, 0)
  norm = np.linalg.norm(w.reshape(len(w), -1), axis=1)
  g = np.exp(log_scale * unfolded.scale[...]) if log_scale else unfolded.scale[...]
  np.testing.assert_allclose(g, norm, rtol=1e-6)


@for_each_log_scale
def test_unfold_of_fold_is_the_same_function_with_v_equal_to_w(log_scale):
  model, x = trained(Nested(wn)), nested_input()
  folded = wn.fold(model)
  again = wn.unfold(folded, log_scale=log_scale)
  np.testing.assert_allclose(again(x), model(x), atol=1e-6)
  assert nnx.graphdef(again) == nnx.graphdef(Nested(wn, log_scale=log_scale))
  kernels = lambda model: {
    path: leaf for path, leaf in nnx.to_flat_state(nnx.state(model)) if path[-1] == 'kernel'
  }
  for path, w in kernels(folded).items():
    np.testing.assert_array_equal(kernels(again)[path][...], w[...])


@pytest.mark.parametrize('log_scale', [-1, float('nan'), float('inf')])
@pytest.mark.parametrize('library', [nnx, wn])
def test_unfold_refuses_log_scales_that_are_none(library, log_scale):
  """Also where there is nothing to unfold."""
  with pytest.raises(ValueError, match='log_scale must be finite and at least 0'):
    wn.unfold(library.Linear(4, 3, rngs=nnx.Rngs(0)), log_scale=log_scale)


def test_a_layer_whose_log_scale_is_refused_stays_as_it_was():
  layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
  before = nnx.graphdef(layer)
  with pytest.raises(ValueError, match='log_scale'):
    convert.normalize_layer(layer, log_scale=-1)
  assert nnx.graphdef(layer) == before


def test_unfold_leaves_the_original_alone():
  model = trained(Nested(nnx))
  graphdef, before = nnx.graphdef(model), numbers(model)
  unfolded = wn.unfold(model)
  nnx.update(unfolded, jax.tree.map(lambda leaf: leaf + 1, nnx.state(unfolded)))
  assert nnx.graphdef(model) == graphdef
  assert_same(numbers(model), before)


def test_unfold_leaves_wn_layers_subclasses_and_other_modules_as_they_are():
  class Mine(nnx.Linear):
    def __call__(self, x):
      return 2 * super().__call__(x)

  rngs = nnx.Rngs(0)
  layers = [
    wn.Linear(4, 4, log_scale=True, rngs=rngs),
    Mine(4, 4, rngs=rngs),
    nnx.LayerNorm(4, rngs=rngs),
  ]
  model = nnx.List(layers)
  with pytest.warns(
    UserWarning, match=r'left as they are: 1 \(.*Mine may have its own forward pass'
  ):
    unfolded = wn.unfold(model)
  assert nnx.graphdef(unfolded) == nnx.graphdef(model)
  assert_same(numbers(unfolded), numbers(model))


def test_unfold_inherits_the_partitioning_of_the_kernel():
  mesh = jax.make_mesh((1,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
  init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, 'model'))
  with jax.set_mesh(mesh):
    layer = nnx.Linear(4, 3, kernel_init=init, rngs=nnx.Rngs(0))
    assert wn.unfold(layer).scale.get_metadata('out_sharding') == ('model',)
