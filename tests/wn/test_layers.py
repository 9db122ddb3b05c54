"""The layers against their nnx namesakes, and against Eq. 1-3 in float64 NumPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import assert_close, checkerboard, f64

NAMESAKES = {wn.Linear: nnx.Linear, wn.Conv: nnx.Conv, wn.ConvTranspose: nnx.ConvTranspose}


def case(cls, in_shape=None, **kwargs):
  """A layer to test: its class, its arguments, the shape of its input."""
  name = [f'{k}={"array" if isinstance(v, jax.Array) else v}' for k, v in kwargs.items()]
  if in_shape is not None:
    name.append(f'in_shape={in_shape}')
  default_kwargs, default_shape = {
    wn.Linear: (dict(in_features=4, out_features=6), (5, 4)),
    wn.Conv: (dict(in_features=4, out_features=6, kernel_size=(3, 2)), (2, 6, 5, 4)),
    wn.ConvTranspose: (dict(in_features=4, out_features=6, kernel_size=(3, 2)), (2, 3, 4, 4)),
  }[cls]
  name = ' '.join([cls.__name__, *name])
  return pytest.param(cls, default_kwargs | kwargs, in_shape or default_shape, id=name)


KINDS = [
  case(wn.Linear),
  case(wn.Conv),
  case(wn.ConvTranspose),
  case(wn.ConvTranspose, transpose_kernel=True),
]
for_each_kind = pytest.mark.parametrize(('cls', 'kwargs', 'in_shape'), KINDS)


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def trained(cls, **kwargs):
  """A layer with random parameters: its scales are not ‖v‖, and some are negative."""
  layer = cls(**kwargs, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(7)
  random_like = lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype)
  nnx.update(layer, jax.tree.map(random_like, nnx.state(layer, nnx.Param)))
  return layer


def gradients(layer, x, dy):
  """Gradients of sum(layer(x) dy), by parameter."""
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  loss = lambda params: jnp.sum(nnx.merge(graphdef, params, rest)(x) * dy)
  return nnx.to_pure_dict(jax.grad(loss)(params))


def output_axis(layer):
  return layer.kernel.ndim - (2 if getattr(layer, 'transpose_kernel', False) else 1)


def units_first(layer, kernel):
  """A kernel, or its gradient, as [out, everything else]."""
  kernel = np.moveaxis(np.asarray(kernel), output_axis(layer), 0)
  return kernel.reshape(len(kernel), -1)


# The reference: a sum of products over positions, window and features.


def products(layer, in_shape, out_shape):
  """(input position, output position, window position) of every product in the layer."""
  if isinstance(layer, nnx.Linear):
    yield (), (), ()
    return
  window = layer.kernel_size
  strides = layer.strides if isinstance(layer.strides, tuple) else (1, 1)
  # A transposed convolution is the adjoint of a convolution from its output to its input.
  transposed = isinstance(layer, nnx.ConvTranspose)
  small, large = (in_shape, out_shape) if transposed else (out_shape, in_shape)
  low = [0, 0]
  if layer.padding == 'SAME':
    low = [max((i - 1) * s + k - j, 0) // 2 for i, j, k, s in zip(small, large, window, strides)]
  for i in np.ndindex(*small):
    for k in np.ndindex(*window):
      j = tuple(i_ * s + k_ - low_ for i_, s, k_, low_ in zip(i, strides, k, low))
      if not all(0 <= j_ < size for j_, size in zip(j, large)):
        continue
      if not transposed:
        yield j, i, k
      elif layer.transpose_kernel:
        yield i, j, k
      else:  # jax's convention: the window is flipped
        yield i, j, tuple(size - 1 - k_ for size, k_ in zip(window, k))


def reference(layer, x, dy, v=None, g=None):
  """y, and the gradients of sum(y dy), by Eq. 1-3; v and g are by default those of the layer."""
  v = f64(layer.kernel) if v is None else f64(v)
  g = f64(layer.scale) if g is None else f64(g)
  x, dy, bias = f64(x), f64(dy), f64(layer.bias)
  v = np.moveaxis(v, output_axis(layer), -1)  # [*window, in, out]
  window_and_in = tuple(range(v.ndim - 1))
  norm = np.sqrt(np.sum(v**2, window_and_in))
  w = g / norm * v

  groups = getattr(layer, 'feature_group_count', 1)
  n_in, n_out = v.shape[-2], v.shape[-1] // groups
  y, dw = np.zeros(dy.shape), np.zeros(v.shape)
  for i, o, k in products(layer, x.shape[1:-1], dy.shape[1:-1]):
    for group in range(groups):
      ins = slice(group * n_in, (group + 1) * n_in)
      outs = slice(group * n_out, (group + 1) * n_out)
      y[:, *o, outs] += x[:, *i, ins] @ w[*k, :, outs]
      dw[*k, :, outs] += x[:, *i, ins].T @ dy[:, *o, outs]

  dg = np.sum(dw * v, window_and_in) / norm
  dv = g / norm * dw - g * dg / norm**2 * v
  db = np.sum(dy, tuple(range(dy.ndim - 1)))
  return y + bias, {'kernel': np.moveaxis(dv, -1, output_axis(layer)), 'scale': dg, 'bias': db}


# Same constructor, same function.

COMMON = dict(
  use_bias=True,
  dtype=jnp.float32,
  param_dtype=jnp.float16,
  precision=jax.lax.Precision.HIGHEST,
  kernel_init=nnx.initializers.normal(0.3),
  bias_init=nnx.initializers.normal(0.2),
  promote_dtype=lambda args, dtype: nnx.nn.dtypes.promote_dtype(args, dtype=dtype),
  preferred_element_type=jnp.float32,
  kernel_metadata={'note': 'of the kernel'},
  bias_metadata={'note': 'of the bias'},
)
CONV = dict(kernel_size=(3, 2), strides=(2, 1), padding='VALID', kernel_dilation=(1, 2))
EVERY_ARGUMENT = {
  wn.Linear: dict(dot_general=lambda *args, **kwargs: jax.lax.dot_general(*args, **kwargs)),
  wn.Conv: CONV
  | dict(
    input_dilation=(2, 1),
    feature_group_count=2,
    mask=checkerboard(3, 2, 2, 6),
    conv_general_dilated=lambda *args, **kwargs: jax.lax.conv_general_dilated(*args, **kwargs),
  ),
  wn.ConvTranspose: CONV | dict(mask=checkerboard(3, 2, 6, 4), transpose_kernel=True),
}


@pytest.mark.parametrize('cls', NAMESAKES)
def test_constructor_passes_every_argument_on(cls):
  kwargs = dict(in_features=4, out_features=6) | COMMON | EVERY_ARGUMENT[cls]
  parameters = inspect.signature(NAMESAKES[cls].__init__).parameters
  assert {*kwargs, 'self', 'rngs'} == {*parameters}, 'extend EVERY_ARGUMENT'
  plain = NAMESAKES[cls](**kwargs, rngs=nnx.Rngs(3))
  layer = cls(**kwargs, rngs=nnx.Rngs(3))

  own = {'scale', 'log_scale', 'unit_axis'} | ({'mask'} if cls is wn.Linear else set())
  assert set(vars(layer)) == set(vars(plain)) | own
  for name, value in vars(plain).items():
    if isinstance(value, nnx.Param):
      np.testing.assert_array_equal(getattr(layer, name)[...], value[...])
      assert getattr(layer, name).get_metadata() == value.get_metadata()
    elif not name.startswith('_pytree__'):
      assert np.all(getattr(layer, name) == value)


@pytest.mark.parametrize(
  ('cls', 'args'),
  [(wn.Linear, (4, 6)), (wn.Conv, (4, 6, (3, 2), 2)), (wn.ConvTranspose, (4, 6, (3, 2), 2))],
)
def test_constructor_passes_positional_arguments_on(cls, args):
  layer, plain = (c(*args, rngs=nnx.Rngs(3)) for c in (cls, NAMESAKES[cls]))
  np.testing.assert_array_equal(layer.kernel[...], plain.kernel[...])
  assert getattr(layer, 'strides', None) == getattr(plain, 'strides', None)


SAME_FUNCTION = [
  case(wn.Linear),
  case(wn.Linear, use_bias=False),
  case(wn.Linear, in_shape=(4,)),
  case(wn.Linear, in_shape=(2, 1, 3, 4)),
  case(wn.Linear, log_scale=True),
  case(wn.Linear, log_scale=3),
  case(wn.Conv),
  case(wn.Conv, kernel_size=3, in_shape=(2, 8, 4)),
  case(wn.Conv, kernel_size=3, padding='CAUSAL', kernel_dilation=2, in_shape=(2, 8, 4)),
  case(wn.Conv, kernel_size=(2, 3, 2), in_shape=(2, 4, 3, 4, 4)),
  case(wn.Conv, strides=2),
  case(wn.Conv, strides=(2, 1)),
  case(wn.Conv, strides=None),
  case(wn.Conv, padding='VALID'),
  case(wn.Conv, padding='CIRCULAR'),
  case(wn.Conv, padding='REFLECT'),
  case(wn.Conv, padding=2),
  case(wn.Conv, padding=(2, 0)),
  case(wn.Conv, padding=((2, 0), (1, 3))),
  case(wn.Conv, input_dilation=(2, 1), padding=1),
  case(wn.Conv, kernel_dilation=2),
  case(wn.Conv, feature_group_count=2),
  case(wn.Conv, feature_group_count=4, out_features=4),
  case(wn.Conv, mask=checkerboard(3, 2, 4, 6)),
  case(wn.Conv, use_bias=False),
  case(wn.Conv, in_shape=(6, 5, 4)),
  case(wn.Conv, in_shape=(2, 1, 3, 6, 5, 4)),
  case(wn.Conv, log_scale=True),
  case(wn.ConvTranspose),
  case(wn.ConvTranspose, kernel_size=3, in_shape=(2, 8, 4)),
  case(wn.ConvTranspose, kernel_size=(2, 3, 2), strides=2, in_shape=(2, 2, 3, 2, 4)),
  case(wn.ConvTranspose, strides=(2, 1)),
  case(wn.ConvTranspose, transpose_kernel=True),
  case(wn.ConvTranspose, padding='VALID'),
  case(wn.ConvTranspose, padding=1),
  case(wn.ConvTranspose, padding=((2, 0), (1, 3))),
  case(wn.ConvTranspose, padding='CIRCULAR', strides=2),
  case(wn.ConvTranspose, padding='CIRCULAR', strides=2, transpose_kernel=True),
  case(wn.ConvTranspose, kernel_dilation=2),
  case(wn.ConvTranspose, mask=checkerboard(3, 2, 4, 6)),
  case(wn.ConvTranspose, mask=checkerboard(3, 2, 6, 4), transpose_kernel=True),
  case(wn.ConvTranspose, use_bias=False),
  case(wn.ConvTranspose, in_shape=(3, 4, 4)),
  case(wn.ConvTranspose, in_shape=(2, 1, 3, 3, 4, 4)),
  case(wn.ConvTranspose, log_scale=True, transpose_kernel=True),
]


@pytest.mark.parametrize(('cls', 'kwargs', 'in_shape'), SAME_FUNCTION)
def test_at_construction_the_function_is_that_of_the_plain_layer(cls, kwargs, in_shape):
  kwargs = kwargs | dict(bias_init=nnx.initializers.normal(0.5))
  layer = cls(**kwargs, rngs=nnx.Rngs(1))
  kwargs.pop('log_scale', None)
  plain = NAMESAKES[cls](**kwargs, rngs=nnx.Rngs(1))
  np.testing.assert_array_equal(layer.kernel[...], plain.kernel[...])
  assert layer.scale.shape == (layer.out_features,)
  x = random(*in_shape)
  y, expected = layer(x), plain(x)
  assert y.dtype == expected.dtype
  assert_close(y, expected, 1e-6)


# With trained scales: Eq. 1-3. Equal numbers of input and output features let a norm over the wrong
# axis pass unnoticed by shapes.

TRAINED = [
  case(wn.Linear),
  case(wn.Linear, out_features=4),
  case(wn.Conv, strides=(2, 1), padding='VALID'),
  case(wn.Conv, strides=(1, 2), out_features=4),
  case(wn.Conv, strides=(2, 2), feature_group_count=2),
  case(wn.ConvTranspose, strides=(2, 1)),
  case(wn.ConvTranspose, strides=(1, 2), padding='VALID'),
  case(wn.ConvTranspose, strides=(2, 1), transpose_kernel=True),
  case(wn.ConvTranspose, strides=(1, 2), transpose_kernel=True, padding='VALID'),
  case(wn.ConvTranspose, out_features=4),
  case(wn.ConvTranspose, out_features=4, transpose_kernel=True),
]


@pytest.mark.parametrize(('cls', 'kwargs', 'in_shape'), TRAINED)
def test_trained_layer_follows_the_equations(cls, kwargs, in_shape):
  layer = trained(cls, **kwargs)
  x = random(*in_shape)
  y = layer(x)
  dy = random(*y.shape, seed=1)
  expected_y, expected = reference(layer, x, dy)
  assert_close(y, expected_y)
  actual = gradients(layer, x, dy)
  assert actual.keys() == expected.keys()
  for name in expected:
    assert_close(actual[name], expected[name])


@for_each_kind
def test_gradients_are_central_finite_differences(cls, kwargs, in_shape):
  kwargs, in_shape = kwargs | dict(in_features=2, out_features=3), (*in_shape[:-1], 2)
  layer = trained(cls, **kwargs)
  x = random(*in_shape)
  dy = random(*layer(x).shape, seed=1)
  actual = gradients(layer, x, dy)

  parameters = {'v': f64(layer.kernel), 'g': f64(layer.scale)}
  loss = lambda parameters: np.sum(reference(layer, x, dy, **parameters)[0] * f64(dy))
  for name, key in (('v', 'kernel'), ('g', 'scale')):
    slope = np.zeros(parameters[name].shape)
    for i in np.ndindex(slope.shape):
      step = np.zeros(slope.shape)
      step[i] = 1e-6
      plus = loss(parameters | {name: parameters[name] + step})
      minus = loss(parameters | {name: parameters[name] - step})
      slope[i] = (plus - minus) / 2e-6
    assert_close(actual[key], slope)


@for_each_kind
@pytest.mark.parametrize(('log_scale', 'c'), [(True, 1), (3.0, 3), (3, 3), (0.5, 0.5)])
def test_log_scale_trains_the_logarithm_of_g(cls, kwargs, in_shape, log_scale, c):
  """∂L/∂s = c g ∂L/∂g."""
  layer = trained(cls, **kwargs, log_scale=log_scale)
  x = random(*in_shape)
  y = layer(x)
  dy = random(*y.shape, seed=1)
  g = np.exp(c * f64(layer.scale))
  np.testing.assert_allclose(layer.get_scale(), g, rtol=1e-5)
  expected_y, expected = reference(layer, x, dy, g=g)
  expected['scale'] *= c * g
  assert_close(y, expected_y)
  for name, gradient in gradients(layer, x, dy).items():
    assert_close(gradient, expected[name])


@for_each_kind
@pytest.mark.parametrize('log_scale', [False, True, 3.0])
def test_scale_is_stored_so_that_g_comes_out_right(cls, kwargs, in_shape, log_scale):
  layer = cls(**kwargs, log_scale=log_scale, rngs=nnx.Rngs(0))
  norms = np.linalg.norm(units_first(layer, layer.kernel[...]).reshape(6, -1), axis=1)
  stored = lambda g: np.log(g) / log_scale if log_scale else g
  np.testing.assert_allclose(layer.scale[...], stored(norms), rtol=1e-5, atol=1e-6)
  g = np.array([1e-3, 0.1, 0.5, 1.0, 20.0, 1e4])
  layer.set_scale(jnp.asarray(g, jnp.float32))
  np.testing.assert_allclose(layer.scale[...], stored(g), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(layer.get_scale(), g, rtol=1e-5)
  norms = np.linalg.norm(units_first(layer, layer.normalized_kernel()).reshape(6, -1), axis=1)
  np.testing.assert_allclose(norms, g, rtol=1e-5)


@pytest.mark.parametrize('log_scale', [False, 0, 0.0])
def test_log_scale_of_0_is_g_itself(log_scale):
  layer = wn.Linear(4, 6, log_scale=log_scale, rngs=nnx.Rngs(0))
  assert nnx.graphdef(layer) == nnx.graphdef(wn.Linear(4, 6, rngs=nnx.Rngs(0)))
  assert_close(layer.scale[...], np.linalg.norm(layer.kernel[...], axis=0))


@for_each_kind
@pytest.mark.parametrize('log_scale', [-1, -3.0, float('nan'), float('inf')])
def test_log_scale_that_is_negative_or_not_finite_is_an_error(cls, kwargs, in_shape, log_scale):
  with pytest.raises(ValueError, match=f'log_scale must be finite and at least 0; got {log_scale}'):
    cls(**kwargs, log_scale=log_scale, rngs=nnx.Rngs(0))


# Dtypes.


@for_each_kind
def test_compute_dtype_leaves_the_norm_in_float32(cls, kwargs, in_shape):
  layer = trained(cls, **kwargs, dtype=jnp.bfloat16)
  w = layer.normalized_kernel()
  assert w.dtype == jnp.float32
  v, g = units_first(layer, f64(layer.kernel)), f64(layer.scale)
  for w_i, v_i, g_i in zip(units_first(layer, w), v, g):
    np.testing.assert_allclose(w_i, g_i / np.sqrt(np.sum(v_i**2)) * v_i, rtol=1e-6)

  x = random(*in_shape)
  y = layer(x)
  assert y.dtype == jnp.bfloat16
  expected_y, expected = reference(layer, x, np.ones(y.shape))
  assert_close(y, expected_y, 2e-2)
  for name, gradient in gradients(layer, x, jnp.ones(y.shape)).items():
    assert gradient.dtype == jnp.float32
    assert_close(gradient, expected[name], 2e-2)


@for_each_kind
@pytest.mark.parametrize('input_dtype', [jnp.bfloat16, jnp.float32])
def test_param_dtype_leaves_the_output_dtype_to_nnx(cls, kwargs, in_shape, input_dtype):
  kwargs = kwargs | dict(param_dtype=jnp.bfloat16)
  layer = trained(cls, **kwargs)
  assert layer.kernel.dtype == layer.scale.dtype == layer.bias.dtype == jnp.bfloat16
  x = random(*in_shape).astype(input_dtype)
  y = layer(x)
  assert y.dtype == NAMESAKES[cls](**kwargs, rngs=nnx.Rngs(0))(x).dtype
  assert_close(y, reference(layer, x, np.ones(y.shape))[0], 2e-2)


@for_each_kind
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_scale_of_half_precision_kernels_is_their_norm(cls, kwargs, in_shape, dtype):
  init = nnx.initializers.normal(300.0)  # in float16 its squares overflow
  layer = cls(**kwargs, param_dtype=dtype, kernel_init=init, rngs=nnx.Rngs(0))
  norm = np.linalg.norm(f64(units_first(layer, layer.kernel)), axis=1)
  assert layer.scale.dtype == dtype
  np.testing.assert_allclose(f64(layer.scale), norm, rtol=float(jnp.finfo(dtype).eps) / 2)
