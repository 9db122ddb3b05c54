"""The layers of `wn.linen` against Eq. 1-3 in float64 NumPy, and against the layers for NNX."""

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
from tests.wn.comparisons import assert_close, assert_same, checkerboard, f64, random
from tests.wn.linen.models import (
  NET_LAYERS,
  AutoEncoder,
  Net,
  assert_moments,
  gradients,
  shapes,
  trained,
)

LAYERS = ('Dense', 'DenseGeneral', 'Conv', 'ConvTranspose', 'Embed')


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


# Flax's bridge, and the documentation.


def test_code_in_the_documentation_runs():
  text = (Path(__file__).parents[3] / 'docs' / 'guide' / 'linen.md').read_text()
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
