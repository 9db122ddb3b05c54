"""Winograd convolutions against SciPy's correlation in float64, and where they must not be used."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx
from jax import lax

import wn
from experiments.runtime import winograd

NHWC = ('NHWC', 'HWIO', 'NHWC')
PADS = {'SAME': ((1, 1), (1, 1)), 'VALID': ((0, 0), (0, 0))}
# Smallest normal distance between 1 and the next number.
EPS = {'float32': 2.0**-23, 'bfloat16': 2.0**-7}
# In norm; a transform adds up to 16 numbers of which most may cancel.
ROUNDING = 8


@pytest.fixture(autouse=True)
def _few_channels(monkeypatch):
  """The limit is one of speed; small arrays keep the tests short."""
  monkeypatch.setattr(winograd, 'MIN_FEATURES', 1)
  monkeypatch.setattr(winograd, 'CHUNK_TILES', 12)  # several chunks


def arrays(seed, batch, height, width, features_in, features_out, pads, dtype='float32'):
  """Input, kernel and gradient of the output."""
  rng = np.random.default_rng(seed)
  (top, bottom), (left, right) = pads
  shapes = (
    (batch, height, width, features_in),
    (3, 3, features_in, features_out),
    (batch, height + top + bottom - 2, width + left + right - 2, features_out),
  )
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def reference(x, kernel, dy, pads):
  """y, dL/dx and dL/dkernel for L = Σ y·dy, in float64, one pair of channels after another."""
  x, kernel, dy = (np.asarray(a.astype(jnp.float32), np.float64) for a in (x, kernel, dy))
  padded = np.pad(x, ((0, 0), *pads, (0, 0)))
  y, d_padded, d_kernel = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
  for b, c, d in itertools.product(range(x.shape[0]), range(x.shape[3]), range(dy.shape[3])):
    image, window, gradient = padded[b, :, :, c], kernel[:, :, c, d], dy[b, :, :, d]
    y[b, :, :, d] += scipy.signal.correlate2d(image, window, 'valid')
    d_kernel[:, :, c, d] += scipy.signal.correlate2d(image, gradient, 'valid')
    d_padded[b, :, :, c] += scipy.signal.convolve2d(gradient, window, 'full')
  (top, bottom), (left, right) = pads
  height, width = d_padded.shape[1:3]
  return y, d_padded[:, top : height - bottom, left : width - right], d_kernel


def run(conv, x, kernel, dy, padding):
  """y and both gradients of `conv`, compiled."""

  @jax.jit
  def forward_and_back(x, kernel, dy):
    y, back = jax.vjp(lambda *a: conv(*a, (1, 1), padding, dimension_numbers=NHWC), x, kernel)
    return y, *back(dy)

  return forward_and_back(x, kernel, dy)


def relative_error(actual, expected):
  actual = np.asarray(actual.astype(jnp.float32), np.float64)
  return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((1, 2), (0, 1)), ((2, 2), (2, 0))])
@pytest.mark.parametrize('height, width', [(4, 6), (7, 3), (9, 9)])
def test_output_and_gradients(height, width, padding, dtype):
  pads = PADS.get(padding, padding)
  x, kernel, dy = arrays(height * width, 6, height, width, 3, 5, pads, dtype)
  assert used(x, kernel, (1, 1), padding)
  results = run(winograd.conv_general_dilated, x, kernel, dy, padding)
  for actual, expected in zip(results, reference(x, kernel, dy, pads), strict=True):
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    assert relative_error(actual, expected) < ROUNDING * EPS[dtype]


@pytest.mark.parametrize('seed', range(5))
def test_random_shapes_equal_the_plain_convolution_to_rounding(seed):
  rng = np.random.default_rng(seed)
  height, width = rng.integers(2, 14, 2)
  pads = tuple((int(a), int(b)) for a, b in rng.integers(1, 3, (2, 2)))
  batch, features_in, features_out = (int(n) for n in rng.integers(1, 9, 3))
  inputs = arrays(seed, batch, height, width, features_in, features_out, pads)
  assert used(*inputs[:2], (1, 1), pads)
  fast = run(winograd.conv_general_dilated, *inputs, pads)
  plain = run(lax.conv_general_dilated, *inputs, pads)
  for actual, expected in zip(fast, plain, strict=True):
    assert relative_error(actual, np.asarray(expected, np.float64)) < ROUNDING * EPS['float32']


def test_rounding_stays_small_over_many_channels():
  x, kernel, dy = arrays(0, 2, 8, 8, 192, 192, PADS['SAME'])
  fast = run(winograd.conv_general_dilated, x, kernel, dy, 'SAME')
  exact = run(
    lax.conv_general_dilated, *(np.asarray(a, np.float32) for a in (x, kernel, dy)), 'SAME'
  )
  for actual, expected in zip(fast, exact, strict=True):
    assert relative_error(actual, np.asarray(expected, np.float64)) < ROUNDING * EPS['float32']


@pytest.mark.parametrize('chunk_tiles', [1, 4, 8, 10**6])
def test_chunks_do_not_change_the_result(chunk_tiles, monkeypatch):
  inputs = arrays(0, 7, 4, 4, 3, 2, PADS['SAME'])
  expected = run(winograd.conv_general_dilated, *inputs, 'SAME')
  monkeypatch.setattr(winograd, 'CHUNK_TILES', chunk_tiles)
  for a, b in zip(run(winograd.conv_general_dilated, *inputs, 'SAME'), expected, strict=True):
    assert relative_error(a, np.asarray(b, np.float64)) < 8 * EPS['float32']


def used(x, kernel, strides, padding, **kwargs):
  """Whether `conv_general_dilated` takes the fast path: it has no convolution then."""
  kwargs = {'dimension_numbers': NHWC} | kwargs
  conv = lambda *a: winograd.conv_general_dilated(*a, strides, padding, **kwargs)
  return 'conv_general_dilated' not in str(jax.make_jaxpr(conv)(x, kernel))


@pytest.mark.parametrize(
  'changes',
  [
    {'strides': (2, 2)},
    {'strides': (1, 2)},
    {'kernel': (1, 1, 4, 6)},
    {'kernel': (5, 5, 4, 6)},
    {'kernel': (3, 1, 4, 6)},
    {'padding': ((3, 3), (3, 3))},
    {'padding': ((-1, 1), (1, 1))},
    {'rhs_dilation': (2, 2)},
    {'lhs_dilation': (2, 1), 'padding': ((1, 1), (1, 1))},
    {'feature_group_count': 2, 'kernel': (3, 3, 2, 6)},
    {'batch_group_count': 2},
    {'precision': lax.Precision.HIGHEST},
    {'preferred_element_type': jnp.float32},
    {'dtype': 'float16'},
    {'dimension_numbers': ('NCHW', 'HWIO', 'NCHW'), 'x': (4, 4, 9, 9)},
    {'dimension_numbers': ('NHWC', 'OHWI', 'NHWC'), 'kernel': (3, 3, 3, 4), 'x': (4, 9, 9, 4)},
    {'x': (0, 9, 9, 4)},
  ],
  ids=str,
)
def test_what_is_not_covered_is_the_plain_convolution(changes):
  changes = dict(changes)
  dtype = changes.pop('dtype', 'float32')
  rng = np.random.default_rng(0)
  x, kernel = (
    jnp.asarray(rng.normal(size=changes.pop(name, shape)), dtype)
    for name, shape in (('x', (4, 9, 9, 4)), ('kernel', (3, 3, 4, 6)))
  )
  strides, padding = changes.pop('strides', (1, 1)), changes.pop('padding', 'SAME')
  assert not used(x, kernel, strides, padding, **changes)
  kwargs = {'dimension_numbers': NHWC} | changes
  actual = winograd.conv_general_dilated(x, kernel, strides, padding, **kwargs)
  expected = lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
  np.testing.assert_array_equal(actual, expected)


def test_few_channels_are_the_plain_convolution(monkeypatch):
  monkeypatch.setattr(winograd, 'MIN_FEATURES', 5)
  x, kernel, _ = arrays(0, 2, 4, 4, 4, 6, PADS['SAME'])
  assert not used(x, kernel, (1, 1), 'SAME')


@pytest.mark.parametrize('padding', ['SAME', 'VALID', 'CIRCULAR', 'REFLECT', 1])
@pytest.mark.parametrize('layer', [nnx.Conv, wn.Conv])
def test_in_a_layer(layer, padding):
  make = lambda **kwargs: layer(4, 6, (3, 3), padding=padding, rngs=nnx.Rngs(0), **kwargs)
  x = jax.random.normal(jax.random.key(1), (5, 6, 7, 4))
  fast = make(conv_general_dilated=winograd.conv_general_dilated)
  loss = lambda model: jnp.sum(jnp.sin(model(x)))
  np.testing.assert_allclose(fast(x), make()(x), rtol=1e-5, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    nnx.grad(loss)(fast),
    nnx.grad(loss)(make()),
  )


def test_under_vmap():
  x, kernel, _ = arrays(0, 4, 4, 4, 3, 2, PADS['SAME'])
  conv = lambda conv, x: conv(x[None], kernel, (1, 1), 'SAME', dimension_numbers=NHWC)[0]
  fast = jax.vmap(lambda x: conv(winograd.conv_general_dilated, x))(x)
  plain = jax.vmap(lambda x: conv(lax.conv_general_dilated, x))(x)
  np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)
