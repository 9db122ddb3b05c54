"""`wn.linen` against Eq. 1-3 and 5-6 in float64 NumPy, and against the layers for NNX."""

import re
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wn
import wn.linen

LAYERS = ('Dense', 'DenseGeneral', 'Conv', 'ConvTranspose', 'Embed')


def checkerboard(*shape):
  return jnp.asarray(np.indices(shape).sum(0) % 2, jnp.float32)


def case(name, nnx_layer, in_shape, fields, nnx_fields=None, **shared):
  """A layer to test, its `wn` namesake for NNX, and the shape of its input."""
  show = {k: v for k, v in {**fields, **shared}.items() if not isinstance(v, jax.Array)}
  label = ' '.join([name, *(f'{k}={getattr(v, "__name__", v)}' for k, v in show.items())])
  return pytest.param(
    getattr(wn.linen, name)(**fields, **shared),
    lambda: nnx_layer(**(nnx_fields or {}), **shared, rngs=nnx.Rngs(0)),
    in_shape,
    id=label,
  )


def dense(**shared):
  return case(
    'Dense', wn.Linear, (5, 4), {'features': 6}, dict(in_features=4, out_features=6), **shared
  )


def conv(transpose=False, **shared):
  name, cls = ('ConvTranspose', wn.ConvTranspose) if transpose else ('Conv', wn.Conv)
  sizes = dict(in_features=4, out_features=6, kernel_size=(3, 2))
  fields = dict(features=6, kernel_size=(3, 2))
  shared = dict(strides=(2, 1), padding='VALID') | shared
  return case(name, cls, (2, 5, 4, 4), fields, sizes, **shared)


# NumPy's references have these.
PLAIN_CASES = [dense(), conv(), conv(transpose=True), conv(transpose=True, transpose_kernel=True)]
CASES = [
  *PLAIN_CASES,
  dense(use_bias=False),
  dense(unit_axis=None),
  dense(unit_axis=-2),
  dense(log_scale=3.0),
  dense(dtype=jnp.bfloat16),
  dense(param_dtype=jnp.bfloat16),
  conv(padding='CIRCULAR', strides=1),
  conv(feature_group_count=2, mask=checkerboard(3, 2, 2, 6)),
  conv(unit_axis=(0, -1)),
  conv(transpose=True, mask=checkerboard(3, 2, 4, 6), unit_axis=-2),
  case(
    'DenseGeneral',
    wn.LinearGeneral,
    (7, 2, 3, 4),
    {'features': (5, 6), 'axis': (-2, -1)},
    dict(in_features=(3, 4), out_features=(5, 6), axis=(-2, -1)),
  ),
  case(
    'DenseGeneral',
    wn.LinearGeneral,
    (2, 3, 4),
    {'features': 6, 'batch_dims': 0},
    dict(in_features=4, out_features=6, batch_axis={0: 2}),
  ),
]
for_each_case = pytest.mark.parametrize(('layer', 'nnx_layer', 'in_shape'), CASES)
for_each_plain_case = pytest.mark.parametrize(('layer', 'nnx_layer', 'in_shape'), PLAIN_CASES)
for_each_library = pytest.mark.parametrize('library', [wn.linen, nn], ids=['wn', 'nn'])


def random(*shape, seed=0):
  """Far from mean 0 and variance 1."""
  return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape) + 1, jnp.float32)


def f64(x):
  return np.asarray(x).astype(np.float64)


def assert_close(actual, expected, tolerance=3e-6):
  """Equal to a tolerance relative to the largest element."""
  actual, expected = f64(actual), f64(expected)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_moments(t, mean, std, tolerance=2e-5):
  t = f64(t)
  axes = tuple(range(t.ndim - 1))
  np.testing.assert_allclose(t.mean(axes), mean, atol=tolerance * std)
  np.testing.assert_allclose(t.std(axes), std, rtol=tolerance)


def shapes(tree):
  return jax.tree.map(jnp.shape, tree)


def trained(model, *inputs, seed=7):
  """Variables with random parameters: scales are not ‖v‖, and some are negative."""
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), variables)


def gradients(layer, params, x, dy):
  loss = lambda params: jnp.sum(layer.apply({'params': params}, x) * dy)
  return jax.jit(jax.grad(loss))(params)


# The layers.


def products(layer, in_shape):
  """(input position, output position, window position) of the products of a 'VALID' layer."""
  if isinstance(layer, nn.Dense):
    yield (), (), ()
    return
  (h, w), (kh, kw), (sh, sw) = in_shape, layer.kernel_size, layer.strides
  transposed = isinstance(layer, nn.ConvTranspose)
  small = (h, w) if transposed else ((h - kh) // sh + 1, (w - kw) // sw + 1)
  for i in np.ndindex(*small):
    for k in np.ndindex(kh, kw):
      j = (i[0] * sh + k[0], i[1] * sw + k[1])
      if not transposed:
        yield j, i, k
      elif layer.transpose_kernel:
        yield i, j, k
      else:  # jax's convention: the window is flipped
        yield i, j, (kh - 1 - k[0], kw - 1 - k[1])


def reference(layer, params, x, dy):
  """y, and the gradients of sum(y dy), by Eq. 1-3."""
  v, g, bias, x, dy = map(f64, (params['kernel'], params['scale'], params['bias'], x, dy))
  is_swapped = getattr(layer, 'transpose_kernel', False)
  v = v.swapaxes(-1, -2) if is_swapped else v  # [*window, in, out]
  axes = tuple(range(v.ndim - 1))
  norm = np.sqrt(np.sum(v**2, axes))
  w, y, dw = g / norm * v, np.zeros(dy.shape), np.zeros(v.shape)
  for i, o, k in products(layer, x.shape[1:-1]):
    y[:, *o] += x[:, *i] @ w[k]
    dw[k] += x[:, *i].T @ dy[:, *o]
  dg = np.sum(dw * v, axes) / norm
  dv = g / norm * dw - g * dg / norm**2 * v
  dv = dv.swapaxes(-1, -2) if is_swapped else dv
  db = np.sum(dy, tuple(range(dy.ndim - 1)))
  return y + bias, {'kernel': dv, 'scale': dg, 'bias': db}


@for_each_plain_case
def test_outputs_and_gradients_are_those_of_the_equations(layer, nnx_layer, in_shape):
  x = random(*in_shape)
  params = trained(layer, x)['params']
  y = layer.apply({'params': params}, x)
  dy = random(*y.shape, seed=1)
  expected_y, expected = reference(layer, params, x, dy)
  assert_close(y, expected_y)
  actual = gradients(layer, params, x, dy)
  assert set(actual) == set(expected)
  for name in expected:
    assert_close(actual[name], expected[name], 1e-5)


@for_each_case
def test_equals_the_layer_for_nnx(layer, nnx_layer, in_shape):
  x = random(*in_shape)
  params = trained(layer, x)['params']
  other = nnx_layer()
  assert shapes(params) == shapes(nnx.to_pure_dict(nnx.state(other, nnx.Param)))
  nnx.update(other, params)
  y = layer.apply({'params': params}, x)
  assert y.dtype == other(x).dtype
  np.testing.assert_array_equal(y, other(x))
  dy = random(*y.shape, seed=1).astype(y.dtype)
  graphdef, state, rest = nnx.split(other, nnx.Param, ...)
  loss = lambda state: jnp.sum(nnx.merge(graphdef, state, rest)(x) * dy)
  expected = jax.jit(jax.grad(loss))(state)
  actual = gradients(layer, params, x, dy)
  jax.tree.map(assert_close, actual, nnx.to_pure_dict(expected))


@pytest.mark.parametrize(('layer', 'nnx_layer', 'in_shape'), [*PLAIN_CASES, *CASES[-3:]])
def test_new_layer_is_its_namesake(layer, nnx_layer, in_shape):
  x = random(*in_shape)
  fields = {f: getattr(layer, f) for f in type(layer).__dataclass_fields__} | {
    'bias_init': nn.initializers.normal()
  }
  layer = type(layer)(**fields | {'parent': None})
  own = ('unit_axis', 'log_scale', 'parent')
  plain = getattr(nn, type(layer).__name__)(**{f: v for f, v in fields.items() if f not in own})
  variables, expected = (m.init(jax.random.key(3), x) for m in (layer, plain))
  scale = variables['params'].pop('scale')
  assert_same(variables, expected)
  y = layer.apply({'params': variables['params'] | {'scale': scale}}, x)
  tolerance = 2e-2 if jnp.bfloat16 in (layer.dtype, layer.param_dtype) else 3e-6
  assert_close(y, plain.apply(expected, x), tolerance)


@pytest.mark.parametrize('name', LAYERS)
def test_positional_arguments_and_names_are_those_of_the_namesake(name):
  args = {'Embed': (9, 4), 'Conv': (6, (3, 2), 2), 'ConvTranspose': (6, (3, 2), (2, 1))}
  layer, plain = (getattr(library, name)(*args.get(name, (6,))) for library in (wn.linen, nn))
  for field in type(plain).__dataclass_fields__:
    assert getattr(layer, field) is getattr(plain, field) or field.startswith('_'), field

  class Model(nn.Module):
    library: Any

    @nn.compact
    def __call__(self, x):
      return getattr(self.library, name)(*args.get(name, (6,)))(x)

  x = jnp.ones((2, 5), int) if name == 'Embed' else random(2, 5, 4, 4)
  params, expected = (Model(lib).init(jax.random.key(0), x)['params'] for lib in (wn.linen, nn))
  params[f'{name}_0'].pop('scale')
  assert_same(params, expected)


def test_embed_normalizes_every_embedding_also_in_attend():
  layer, ids = wn.linen.Embed(9, 4), jnp.arange(6).reshape(2, 3)
  params = trained(layer, ids)['params']
  v, g = f64(params['embedding']), f64(params['scale'])
  w = g[:, None] * v / np.sqrt(np.sum(v**2, 1, keepdims=True))
  assert_close(layer.apply({'params': params}, ids), w[ids])
  query = random(5, 4)
  attended = layer.apply({'params': params}, query, method='attend')
  assert_close(attended, f64(query) @ w.T)


def test_zero_units_start_at_zero_and_train():
  layer, x = wn.linen.Dense(3, kernel_init=nn.initializers.zeros), random(5, 4)
  params = layer.init(jax.random.key(0), x)['params']
  np.testing.assert_array_equal(params['scale'], np.zeros(3))
  np.testing.assert_array_equal(layer.apply({'params': params}, x), np.zeros((5, 3)))
  assert np.all(gradients(layer, params, x, jnp.ones((5, 3)))['scale'] != 0)


def test_scale_is_sharded_as_the_units():
  names = (None, None, 'in', 'out')
  init = nn.with_partitioning(nn.initializers.lecun_normal(), names)
  x = random(2, 5, 5, 4)
  for unit_axis, expected in (('output', ('out',)), ((-2, -1), ('in', 'out')), (None, ())):
    layer = wn.linen.Conv(6, (3, 3), kernel_init=init, unit_axis=unit_axis)
    variables = layer.init(jax.random.key(0), x)
    assert variables['params']['scale'].names == expected
    assert variables['params']['kernel'].names == names
    unboxed = nn.unbox(variables)
    np.testing.assert_array_equal(layer.apply(variables, x), layer.apply(unboxed, x))
    folded = wn.linen.fold(layer, variables, x)['params']['kernel']
    assert folded.names == names
    new = wn.linen.data_dependent_init(layer, variables, x)
    assert shapes(new) == shapes(variables) and new['params']['scale'].names == expected


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'unit_axis': 2}, 'out of range'),
    ({'log_scale': -1.0}, 'log_scale must be'),
    ({'mask': jnp.full((3, 4, 6), 0.5)}, 'mask must hold only 0'),
  ],
)
def test_wrong_fields_raise(fields, message):
  layer = wn.linen.Conv(6, (3,), **fields) if 'mask' in fields else wn.linen.Dense(6, **fields)
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), random(2, 5, 4))


# Models.


class Net(nn.Module):
  """A small conv net, with the layers of `nn` or `wn.linen`."""

  library: Any = wn.linen
  fields: Any = ()

  @nn.compact
  def __call__(self, x, record=False):
    lib, fields, relu = self.library, dict(self.fields), jax.nn.leaky_relu
    ts = [lib.Conv(4, (3, 3), **fields)(x)]
    ts.append(lib.Conv(4, (3, 3), 2, feature_group_count=2, **fields)(relu(ts[-1])))
    ts.append(lib.ConvTranspose(6, (3, 3), (2, 2), transpose_kernel=True, **fields)(relu(ts[-1])))
    x = relu(ts[-1])
    ts.append(lib.Dense(3, **fields)(x.reshape(len(x), -1)))
    return ts if record else ts[-1]


NET_LAYERS = ('Conv_0', 'Conv_1', 'ConvTranspose_0', 'Dense_0')


class NnxNet(nnx.Module):
  """`Net` for NNX."""

  def __init__(self, library, params, **fields):
    fields = fields | {'rngs': nnx.Rngs(0)}
    self.layers = nnx.List(
      [
        library.Conv(4, 4, (3, 3), **fields),
        library.Conv(4, 4, (3, 3), 2, feature_group_count=2, **fields),
        library.ConvTranspose(4, 6, (3, 3), (2, 2), transpose_kernel=True, **fields),
        library.Linear(6 * 36, 3, **fields),
      ]
    )
    for layer, name in zip(self.layers, NET_LAYERS):
      nnx.update(layer, params[name])

  def __call__(self, x):
    for layer in self.layers:
      if isinstance(layer, nnx.Linear):
        x = x.reshape(len(x), -1)
      t = layer(x)
      x = jax.nn.leaky_relu(t)
    return t


def test_a_step_trains_g_and_leaves_v_orthogonal_to_its_gradient():
  model, x, labels = Net(), random(8, 6, 6, 4), jnp.arange(8) % 3
  params = trained(model, x)['params']
  optimizer = optax.adam(1e-3)

  def loss_of(params):
    logits = model.apply({'params': params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @jax.jit
  def step(params):
    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params))
    return loss, grads, optax.apply_updates(params, updates)

  loss, grads, new = step(params)
  for name in NET_LAYERS:
    v, dv = f64(params[name]['kernel']), f64(grads[name]['kernel'])
    unit = -2 if name == 'ConvTranspose_0' else -1
    axes = tuple(i for i in range(v.ndim) if i != v.ndim + unit)
    size = np.sqrt(np.sum(v**2, axes) * np.sum(dv**2, axes))
    assert np.all(np.abs(np.sum(v * dv, axes)) <= 1e-5 * size)
    assert np.all(grads[name]['scale'] != 0)
    assert np.all(new[name]['scale'] != params[name]['scale'])
  assert step(new)[0] < loss


# Folding.

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
      return self.library.Dense(2, dtype=jnp.bfloat16)(x)

  x = random(5, 7, 4)
  model = Model(wn.linen)
  variables = jax.tree.map(jnp.abs, trained(model, x, False))  # a variance is positive
  plain = wn.linen.fold(model, variables, x, train=True)
  assert_same(plain['batch_stats'], variables['batch_stats'])
  dtypes = {name: p['kernel'].dtype for name, p in plain['params'].items() if 'kernel' in p}
  assert dtypes == {'Conv_0': jnp.bfloat16, 'Dense_0': jnp.float32}
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


class Block(nn.Module):
  library: Any

  @nn.compact
  def __call__(self, x, _=None):
    return nn.tanh(self.library.Dense(4)(x)), None


class Lifted(nn.Module):
  """Layers inside the transforms of Flax: a stack, a recurrence, a checkpoint."""

  library: Any

  @nn.compact
  def __call__(self, x):
    stack = nn.scan(Block, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
    x, _ = stack(self.library, name='stack')(x, None)
    loop = nn.scan(Block, variable_broadcast='params', split_rngs={'params': False}, length=3)
    x, _ = loop(self.library, name='loop')(x, None)
    x, _ = nn.remat(Block)(self.library, name='remat')(x)
    return self.library.Dense(3, name='head')(x)


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


class AutoEncoder(nn.Module):
  """Two halves, of which a call may use one."""

  library: Any = wn.linen

  def setup(self):
    self.encoder = self.library.Dense(5)
    self.decoder = self.library.Dense(4)

  def encode(self, x):
    return self.encoder(x)

  def __call__(self, x):
    return self.decoder(nn.relu(self.encode(x)))


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


# Data-dependent initialization.


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


# Flax's bridge, and the documentation.


def test_code_in_the_documentation_runs():
  text = (Path(__file__).parents[2] / 'docs' / 'guide' / 'linen.md').read_text()
  names = {}
  with warnings.catch_warnings(record=True) as record:
    warnings.simplefilter('always')
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
      exec(compile(block, 'LINEN.md', 'exec'), names)
  assert not [w for w in record if issubclass(w.category, UserWarning)]
  x = names['images']
  assert_moments(names['logits'], 0, 1)
  assert_close(names['plain_logits'], names['logits'], 1e-5)
  bridged = names['bridged'].apply(names['state'], x)
  assert_moments(bridged, 0, 1)
  assert type(names['plain_model'].head) is nnx.Linear
  assert_close(names['plain_model'](x), bridged, 1e-5)


def test_a_model_trains_inside_the_bridge_to_nnx():
  x = random(8, 4)
  model = nnx.bridge.ToNNX(AutoEncoder(), rngs=nnx.Rngs(0)).lazy_init(x)
  optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)
  before = np.array(model.encoder['scale'][...])
  optimizer.update(model, nnx.grad(lambda model: jnp.sum((model(x) - x) ** 2))(model))
  assert np.any(model.encoder['scale'][...] != before)


def test_import_of_wn_leaves_linen_to_those_who_use_it():
  source = (Path(wn.__file__)).read_text()
  assert 'wn.linen' not in source
