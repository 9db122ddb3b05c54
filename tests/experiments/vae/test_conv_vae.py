"""The convolutional VAE: the bound against NumPy, shapes, initialization, importance sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

import wn
from experiments.training.layers import Layers
from experiments.vae import pictures
from experiments.vae.autoregressive import init_scale
from experiments.vae.conv_vae import ConvVAE

SHAPE = (8, 12, 1)
KEY = jax.random.key(3)
X = jax.random.bernoulli(jax.random.key(1), 0.3, (50, *SHAPE)).astype(jnp.float32)


def make(variant='wn', flow_steps=0, scale=1.0, flow_scale=1.0, **changes):
  sizes = {'maps': (2, 3, 4), 'blocks': 1, 'hidden': 10, 'latents': 3, 'flow_width': 7}
  sizes |= {'flow_depth': 1} | changes
  layers = Layers(variant, init_std=0.05, rngs=nnx.Rngs(0))
  sizes['flow_steps'] = flow_steps or 3  # not read without a flow
  model = ConvVAE(SHAPE, layers=layers, is_iaf=flow_steps > 0, **sizes)
  wn.data_dependent_init(model, X, KEY, init_scale=init_scale(scale, flow_scale))
  return model


@pytest.mark.parametrize('flow_steps', [0, 2])
@pytest.mark.parametrize('variant', ['plain', 'wn'])
def test_shapes_and_finite_gradients(variant, flow_steps):
  model = make(variant, flow_steps)
  mean, log_std, context = model.encode(X)
  assert mean.shape == log_std.shape == (50, 3)
  assert context.shape == (50, 10 if flow_steps else 0)
  assert model.decode(mean).shape == X.shape
  bound = model(X, KEY)
  assert bound.log_likelihood.shape == bound.log_weight.shape == bound.elbo.shape == (50,)
  assert bound.kl.shape == (50, 1, 1)
  gradients = nnx.grad(lambda model: -model(X, KEY).elbo.mean())(model)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  samples = np.asarray(model.sample(KEY, 5))
  assert samples.shape == (5, *SHAPE) and samples.min() >= 0 and samples.max() <= 1


@pytest.mark.parametrize('flow_steps', [0, 3])
def test_terms_of_the_bound(flow_steps):
  model = make(flow_steps=flow_steps)
  mean, log_std, context = model.encode(X)
  noise = np.asarray(jax.random.normal(KEY, mean.shape), np.float64)
  mean, log_std = np.asarray(mean, np.float64), np.asarray(log_std, np.float64)
  z = mean + np.exp(log_std) * noise
  log_q = stats.norm.logpdf(z, mean, np.exp(log_std)).sum(axis=1)
  if flow_steps:
    z, change = model.flow(jnp.asarray(z, jnp.float32), context)
    z, log_q = np.asarray(z, np.float64), log_q + np.asarray(change)
  log_p = stats.norm.logpdf(z).sum(axis=1)
  logits = np.asarray(model.decode(jnp.asarray(z, jnp.float32)), np.float64)
  log_likelihood = np.where(X > 0, special.log_expit(logits), special.log_expit(-logits))
  log_likelihood = log_likelihood.sum(axis=(1, 2, 3))
  kl = log_q - log_p
  if not flow_steps:
    kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum(axis=1)
  bound = model(X, KEY)
  np.testing.assert_allclose(bound.log_likelihood, log_likelihood, rtol=1e-5)
  np.testing.assert_allclose(bound.kl[:, 0, 0], kl, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(bound.elbo, log_likelihood - kl, rtol=1e-5)
  np.testing.assert_allclose(bound.log_weight, log_likelihood + log_p - log_q, rtol=1e-5)


def test_both_parameterizations_begin_as_the_same_function():
  for flow_steps in (0, 2):
    plain, normed = make('plain', flow_steps), make('wn', flow_steps)
    np.testing.assert_allclose(plain(X, KEY).elbo, normed(X, KEY).elbo, rtol=1e-4)


@pytest.mark.parametrize('flow_steps', [0, 2])
def test_initialization_normalizes_every_layer(flow_steps):
  """Those in the flow at a scale of their own."""
  model = make(flow_steps=flow_steps, scale=0.5, flow_scale=0.1)
  seen = {}

  def watch(layer, name):
    cls = type(layer)

    def call(self, x):
      seen[name] = cls.__call__(self, x)
      return seen[name]

    layer.__class__ = type('Watched', (cls,), {'__call__': call})

  for path, layer in nnx.iter_modules(model):
    if isinstance(layer, wn.Linear | wn.Conv):
      watch(layer, '.'.join(map(str, path)))
  model(X, KEY)
  assert len(seen) == 22 + 4 * flow_steps
  for name, t in seen.items():
    axes = tuple(range(t.ndim - 1))
    is_in_flow = name.startswith('flow.')
    # Units for the first latent see the context only, and those before the sum nothing at all.
    blind = is_in_flow and not name.endswith('.context')
    scale = 0.1 if is_in_flow else 0.5
    np.testing.assert_allclose(np.mean(t, axes), 0, atol=1e-3, err_msg=name)
    stds = np.std(t, axes)
    np.testing.assert_allclose(stds[stds > 0] if blind else stds, scale, rtol=1e-2, err_msg=name)


def test_the_bound_is_below_the_importance_sampled_likelihood():
  """On average over images; and one sample of it is the bound."""
  from experiments.vae.likelihood import log_likelihood

  model = make(flow_steps=2)
  graphdef, state = nnx.split(model)
  estimate = lambda k: np.asarray(log_likelihood(graphdef, state, X, KEY, samples=k)).mean()
  keys = jax.random.split(KEY, 200)
  bounds = np.asarray(jax.lax.map(lambda key: model(X, key).elbo.mean(), keys))
  values = [bounds.mean(), estimate(2), estimate(8), estimate(100), estimate(2000)]
  spread = bounds.std() / np.sqrt(len(bounds))
  assert values[0] + 3 * spread < values[3] and values[2] < values[4] and values[1] < values[4]


class LinearGaussian:
  """p(z) = N(0, I), p(x|z) = N(z, σ²): log p(x) = log N(x; 0, 1 + σ²). q is wrong on purpose."""

  std = 0.5

  def encode(self, x):
    return 0.7 * x, jnp.full(x.shape, -0.5), x

  def bound(self, x, posterior, key):
    from experiments.training import distributions as d
    from experiments.vae.bound import Bound

    mean, log_std, _ = posterior
    z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    log_q = d.gaussian_log_density(z, mean, log_std).sum(-1)
    log_x = d.gaussian_log_density(x, z, jnp.full(x.shape, np.log(self.std))).sum(-1)
    log_p = d.standard_normal_log_density(z).sum(-1)
    return Bound(log_x, (log_q - log_p)[:, None, None], log_x + log_p - log_q)


def test_importance_sampling_on_a_model_with_a_known_likelihood(monkeypatch):
  from experiments.vae import likelihood

  monkeypatch.setattr(likelihood.nnx, 'merge', lambda graphdef, state: LinearGaussian())
  x = jax.random.normal(KEY, (300, 2)) * np.sqrt(1 + LinearGaussian.std**2)
  exact = stats.norm.logpdf(np.asarray(x), 0, np.sqrt(1 + LinearGaussian.std**2)).sum(axis=1)
  estimates = np.asarray(likelihood.log_likelihood(None, None, x, KEY, samples=5000))
  difference = estimates - exact
  standard_error = difference.std(ddof=1) / np.sqrt(len(difference))
  assert standard_error < 0.005 and abs(difference.mean()) < 4 * standard_error + 1e-3


@pytest.mark.parametrize('flow_steps', [0, 2])
def test_traversals_show_the_latents_that_matter(flow_steps):
  model = make('plain', flow_steps)
  kernel = model.decoder_dense[0].kernel
  kernel[...] = kernel[...] * jnp.array([[0.0], [1.0], [0.1]])
  images = pictures.traversals(model, X[:1], count=2).reshape(2, 9, *SHAPE)
  mean, _, context = model.encode(X[:1])
  z = mean if model.flow is None else model.flow(mean, context)[0]
  for row, latent in zip(images, (1, 2), strict=True):
    for image, value in zip(row[::4], (-3, 0, 3), strict=True):
      logits = model.decode(z.at[0, latent].set(value))
      np.testing.assert_allclose(image, jax.nn.sigmoid(logits)[0], atol=1e-5)
