"""DRAW: against NumPy, an unrolled loop and closed forms; how it begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import wn
from configs import draw
from experiments.draw import train
from experiments.draw.model import Draw
from experiments.training import distributions
from tests import configurations

SHAPE = (6, 8, 1)
KEY = jax.random.key(3)
X = jax.random.bernoulli(jax.random.key(1), 0.3, (5, *SHAPE)).astype(jnp.float32)
SIZES = {'encoder_units': 7, 'decoder_units': 6, 'latents': 3, 'read_window': 2, 'write_window': 3}
T = 4
both = pytest.mark.parametrize('attention', [True, False])


def make(
  attention=True, remat=False, glimpses=T, init_std=0.01, peepholes=True, kind='plain', **sizes
):
  return Draw(
    SHAPE, parameterization=kind, glimpses=glimpses, with_attention=attention, init_std=init_std,
    remat=remat, peepholes=peepholes, rngs=nnx.Rngs(0), **SIZES | sizes,
  )  # fmt: skip


def trained(attention=True, **kwargs):
  """A weight-normalized model with random parameters: its scales are not ‖v‖."""
  model = make(attention, kind='wn', **kwargs)
  rng = np.random.default_rng(7)
  random_like = lambda p: jnp.asarray(rng.normal(scale=0.4, size=p.shape), p.dtype)
  nnx.update(model, jax.tree.map(random_like, nnx.state(model, nnx.Param)))
  return model


# The reference: Eq. 1–12 with w = (g/‖v‖) v and the peepholes of Graves (2013), in float64.


def affine(layer, x):
  v, g = np.asarray(layer.kernel, np.float64), np.asarray(layer.scale, np.float64)
  y = x @ (g / np.sqrt(np.sum(v**2, axis=0)) * v)
  return y if layer.bias is None else y + np.asarray(layer.bias, np.float64)


def lstm(cell, state, x):
  c, h = state
  gate = lambda of_x, of_h: affine(of_x, x) + affine(of_h, h)
  peephole = lambda name: np.asarray(getattr(cell, f'peephole_{name}', 0.0), np.float64)
  i = special.expit(gate(cell.ii, cell.hi) + peephole('i') * c)
  f = special.expit(gate(cell.if_, cell.hf) + peephole('f') * c)
  c = f * c + i * np.tanh(gate(cell.ig, cell.hg))
  return c, special.expit(gate(cell.io, cell.ho) + peephole('o') * c) * np.tanh(c)


def filters(layer, h, size):
  """F_Y [N, H], F_X [N, W] and γ of each image."""
  for x, y, log_variance, log_delta, log_gamma in affine(layer, h):
    height, width, _ = SHAPE
    delta = (max(height, width) - 1) / (size - 1) * np.exp(log_delta)
    grid = (np.arange(1, size + 1) - size / 2 - 0.5) * delta
    banks = []
    for center, pixels in ((y, height), (x, width)):
      distance = np.arange(1, pixels + 1) - ((pixels + 1) / 2 * (center + 1) + grid)[:, None]
      bank = np.exp(-(distance**2) / (2 * np.exp(log_variance)))
      banks.append(bank / (bank.sum(axis=1, keepdims=True) + 1e-4))
    yield *banks, np.exp(log_gamma)


def numpy_bound(model, x, noise, attention):
  """log p(x|z) [B] and the KL [B, T]."""
  size = len(x)
  canvas = np.zeros(x.shape)
  encoder = (np.zeros((size, 7)), np.zeros((size, 7)))
  decoder = (np.zeros((size, 6)), np.zeros((size, 6)))
  kls = []
  for e in noise:
    error = x - special.expit(canvas)
    if attention:
      patches = [
        np.stack([gamma * f_y @ image[:, :, 0] @ f_x.T for image in pair], axis=-1)
        for pair, (f_y, f_x, gamma) in zip(
          zip(x, error), filters(model.reader.window, decoder[1], 2), strict=True
        )
      ]
      r = np.stack(patches).reshape(size, -1)
    else:
      r = np.stack([x, error], axis=-1).reshape(size, -1)
    encoder = lstm(model.encoder, encoder, np.concatenate([r, decoder[1]], axis=1))
    mean, log_std = affine(model.mean, encoder[1]), affine(model.log_std, encoder[1])
    std = np.exp(log_std)
    kls.append(0.5 * np.sum(mean**2 + std**2 - 1 - np.log(std**2), axis=1))
    decoder = lstm(model.decoder, decoder, mean + std * e)
    if attention:
      w = affine(model.writer.patch, decoder[1]).reshape(size, 3, 3)
      banks = filters(model.writer.window, decoder[1], 3)
      change = [f_y.T @ w_b @ f_x / gamma for w_b, (f_y, f_x, gamma) in zip(w, banks, strict=True)]
      canvas = canvas + np.stack(change)[..., None]
    else:
      canvas = canvas + affine(model.writer.image, decoder[1]).reshape(x.shape)
  p = special.expit(canvas)
  log_likelihood = np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), axis=(1, 2, 3))
  return log_likelihood, np.stack(kls, axis=1)


@pytest.mark.parametrize('attention, peepholes', [(True, True), (False, True), (True, False)])
def test_the_bound_is_that_of_the_equations(attention, peepholes):
  model = trained(attention, peepholes=peepholes)
  noise = np.asarray(jax.random.normal(KEY, (T, len(X), 3)), np.float64)
  log_likelihood, kl = numpy_bound(model, np.asarray(X, np.float64), noise, attention)
  bound = jax.jit(lambda: model(X, KEY))()
  np.testing.assert_allclose(bound.log_likelihood, log_likelihood, rtol=1e-4)
  np.testing.assert_allclose(bound.kl, kl, rtol=2e-3, atol=1e-5)
  np.testing.assert_allclose(bound.elbo, log_likelihood - kl.sum(axis=1), rtol=1e-4)


def test_the_scan_is_the_loop_over_glimpses():
  """Value and gradients of v, g and b; the loop normalizes the weights anew in every glimpse."""

  def loop(model):
    carry, kls = model._start(len(X)), []
    for noise in jax.random.normal(KEY, (2, len(X), 3)):
      carry, kl, _ = model._glimpse(carry, X, noise)
      kls.append(kl)
    log_likelihood = distributions.bernoulli_log_likelihood(X, carry[0])
    return jnp.sum(log_likelihood) - jnp.sum(jnp.stack(kls))

  def value_and_gradients(function, **kwargs):
    graphdef, params = nnx.split(trained(glimpses=2, **kwargs))
    function_of_params = lambda params: function(nnx.merge(graphdef, params))
    return jax.jit(jax.value_and_grad(function_of_params))(params)

  expected_value, expected = value_and_gradients(loop)
  for remat in (False, True):
    scan = lambda model: jnp.sum(model(X, KEY).elbo)
    value, gradients = value_and_gradients(scan, remat=remat)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4)
    for gradient, e in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
      assert np.abs(e).max() > 0
      np.testing.assert_allclose(gradient, e, rtol=0, atol=1e-3 * np.abs(e).max())


@both
def test_both_parameterizations_begin_as_the_same_function(attention):
  plain = make(attention)
  normed = make(attention, kind='wn')
  p, q = (jax.jit(lambda m=m: m(X, KEY))() for m in (plain, normed))
  np.testing.assert_allclose(p.log_likelihood, q.log_likelihood, rtol=1e-6)
  np.testing.assert_allclose(p.kl, q.kl, rtol=1e-4, atol=1e-9)
  # All matrices, in both LSTMs, the sampler, and what reads and writes.
  scales = [layer for _, layer in nnx.iter_modules(normed) if isinstance(layer, nnx.Linear)]
  assert len(scales) == 16 + 2 + (3 if attention else 1)
  for layer in scales:
    assert type(layer) is wn.Linear
    norms = np.linalg.norm(np.asarray(layer.kernel, np.float64), axis=0)
    np.testing.assert_allclose(layer.scale, norms, rtol=1e-6)


def test_the_initial_weights():
  model = make(encoder_units=60, decoder_units=50)
  for path, layer in nnx.iter_modules(model):
    if isinstance(layer, nnx.Linear) and layer.kernel.size > 1000:
      assert np.std(layer.kernel) == pytest.approx(0.01, rel=0.15), path
    if isinstance(layer, nnx.Linear) and layer.bias is not None:
      assert not np.any(layer.bias), path


@both
def test_drawings(attention):
  model = trained(attention)
  drawing = model.reconstruct(X, KEY)
  assert drawing.probabilities.shape == (T, *X.shape)
  samples = model.sample(KEY, 2)
  assert samples.probabilities.shape == (T, 2, *SHAPE) and samples.read is None
  # The last canvas is the one whose likelihood counts.
  p = np.asarray(drawing.probabilities[-1], np.float64)
  expected = np.sum(np.where(X > 0, np.log(p), np.log(1 - p)), axis=(1, 2, 3))
  np.testing.assert_allclose(model(X, KEY).log_likelihood, expected, rtol=1e-4)
  windows = [drawing.read, drawing.written, samples.written]
  if attention:
    shapes = [window.stride.shape for window in windows]
    assert shapes == [(T, len(X)), (T, len(X)), (T, 2)]
    assert float(np.std(drawing.read.center_x)) > 0
  else:
    assert windows == [None, None, None]


def test_g_starts_where_the_config_says():
  model = train.create_model(configurations.frozen(draw, 'wn,tiny'), (8, 8, 1), KEY)
  layers = [m for _, m in nnx.iter_modules(model) if isinstance(m, wn.WeightNormed)]
  assert len(layers) > 5
  for layer in layers:
    np.testing.assert_array_equal(layer.get_scale(), 1)
  config = configurations.frozen(draw, 'wn,tiny', {'model.initial_g': 0.0})
  model = train.create_model(config, (8, 8, 1), KEY)
  plain = train.create_model(configurations.frozen(draw, 'plain,tiny'), (8, 8, 1), KEY)
  np.testing.assert_allclose(
    wn.fold(model).mean.kernel[...], plain.mean.kernel[...], rtol=1e-5, atol=1e-8
  )
