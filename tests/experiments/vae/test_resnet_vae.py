"""The ResNet VAE: receptive fields, the bound against NumPy, initialization, free bits, size."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import wn
from experiments.training.layers import Layers
from experiments.vae import resnet_vae
from experiments.vae.bound import Bound
from experiments.vae.resnet_vae import AutoregressiveConv, ResNetVAE

KEY = jax.random.key(3)
X = jax.random.randint(jax.random.key(1), (20, 8, 16, 3), 0, 256) / 256 - 0.5


def make(variant='wn', is_iaf=True, scale=0.5, flow_scale=0.5, edge_bins='floor'):
  layers = Layers(variant, init_std=0.05, log_scale=3.0, rngs=nnx.Rngs(0))
  sizes = {'depths': (1, 2), 'h': 6, 'z': 2}
  model = ResNetVAE((8, 16, 3), layers=layers, is_iaf=is_iaf, edge_bins=edge_bins, **sizes)
  resnet_vae.initialize(model, X, KEY, scale=scale, flow_scale=flow_scale)
  return model


@pytest.mark.parametrize('variant, is_iaf', itertools.product(['plain', 'wn'], [True, False]))
def test_shapes_and_finite_gradients(variant, is_iaf):
  model = make(variant, is_iaf)
  model.h_top[...] = jnp.linspace(-0.3, 0.2, 6)  # zero at first, it hides the layer that sees it
  bound = model(X, KEY)
  assert bound.log_likelihood.shape == bound.log_weight.shape == bound.elbo.shape == (20,)
  assert bound.kl.shape == (20, 3, 2)
  np.testing.assert_allclose(bound.elbo, bound.log_weight, rtol=1e-5)
  gradients = nnx.grad(lambda model: model(X, KEY).loss(0.25))(model)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  leaves = jax.tree_util.tree_leaves_with_path(gradients)
  idle = {jax.tree_util.keystr(path) for path, leaf in leaves if np.abs(leaf).max() == 0}
  # The bottom-up pass ends with the topmost layer: nothing sees what its second convolution makes.
  assert idle and all(name.startswith("['layers'][2]['up2']") for name in idle)
  for images in (model.sample(KEY, 5), model.reconstruct(X[:5], KEY)):
    assert images.shape == (5, 8, 16, 3) and images.min() >= 0 and images.max() <= 1


def test_an_element_sees_only_what_comes_before_it():
  """Below, right in its row, and the maps before it at its position; the context everywhere."""
  layers = Layers('plain', init_std=0.5, rngs=nnx.Rngs(0))
  z_size, height, width = 3, 4, 5
  flow = AutoregressiveConv(z_size, 7, layers)
  z = jax.random.normal(KEY, (1, height, width, z_size))
  context = jax.random.normal(KEY, (1, height, width, 7))
  for which in (0, 1):
    output = lambda z, which=which: flow(z, context)[which].ravel()
    jacobian = np.asarray(jax.jacobian(output)(z)).reshape(-1, z.size)
    for i, (y, x, c) in enumerate(np.ndindex(height, width, z_size)):
      for j, (v, u, d) in enumerate(np.ndindex(height, width, z_size)):
        before = (v, u) > (y, x) or ((v, u) == (y, x) and d < c)
        if not before:
          assert jacobian[i, j] == 0, (i, j)
    # In this order the Jacobian is strictly upper triangular with respect to positions reversed.
    order = [
      (y * width + x) * z_size + c
      for y in reversed(range(height)) for x in reversed(range(width)) for c in range(z_size)
    ]  # fmt: skip
    assert np.all(np.triu(jacobian[np.ix_(order, order)]) == 0)
    # Neighbours are seen: the one to the right, the one below, the map before.
    at = lambda y, x, c: (y * width + x) * z_size + c
    for j in (at(1, 3, 2), at(2, 2, 2), at(2, 1, 0), at(1, 2, 1)):
      assert jacobian[at(1, 2, 2), j] != 0
  first = jax.grad(lambda context: flow(z, context)[0][0, -1, -1, 0])(context)
  assert np.abs(first).max() > 0  # fully masked, it still depends on the context


@pytest.mark.parametrize('edge_bins', ['floor', 'tails'])
def test_log_likelihood_is_that_of_the_bins(edge_bins):
  model = make(edge_bins=edge_bins)
  model.log_scale[...] = jnp.asarray(-3.0)
  mean = np.asarray(model.reconstruct(X, KEY), np.float64) - 0.5
  x = np.asarray(X, np.float64)
  upper, lower = (x + 1 / 256 - mean) * np.exp(3), (x - mean) * np.exp(3)
  floor = 1e-7
  if edge_bins == 'tails':
    upper = np.where(x > 0.498 - 1 / 512, np.inf, upper)
    lower = np.where(x < -0.499, -np.inf, lower)
    floor = 0
  expected = np.log(special.expit(upper) - special.expit(lower) + floor).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(model(X, KEY).log_likelihood, expected, rtol=1e-4)


def test_both_parameterizations_begin_as_the_same_function():
  plain, normed = make('plain'), make('wn')
  np.testing.assert_allclose(plain(X, KEY).elbo, normed(X, KEY).elbo, rtol=1e-4)
  for model in (plain, normed):  # also when the top is not zero any more
    model.h_top[...] = jnp.linspace(-0.3, 0.2, 6)
  np.testing.assert_allclose(plain(X, KEY).elbo, normed(X, KEY).elbo, rtol=1e-4)


@pytest.mark.parametrize('flow_scale', [0.1, 1.0])
def test_initialization_scales_every_layer(flow_scale):
  """Those in the flow at a scale of their own; the layers after them see what comes of it."""
  model = make(scale=0.1, flow_scale=flow_scale)
  seen = {}

  def watch(layer, name):
    cls = type(layer)

    def call(self, x):
      seen[name] = np.asarray(cls.__call__(self, x))
      return seen[name]

    layer.__class__ = type('Watched', (cls,), {'__call__': call})

  for path, layer in nnx.iter_modules(model):
    if isinstance(layer, wn.Conv | wn.ConvTranspose):
      watch(layer, '.'.join(map(str, path)))
  model(X, KEY)
  assert len(seen) == 2 + 3 * (4 + 4)
  assert np.all(seen.pop('layers.2.down1') == 0)  # it sees h_top, zero at first
  top = model.layers[2].down1
  squares = np.square(top.normalized_kernel())
  np.testing.assert_allclose(np.sqrt(squares.sum(axis=(0, 1, 2))), 0.1, rtol=1e-4)
  for name, t in seen.items():
    stds = t.std(axis=(0, 1, 2))
    blind = 'mean' in name or 'log_scale' in name  # their first map sees nothing at its position
    scale = flow_scale if '.flow.' in name else 0.1
    np.testing.assert_allclose(stds[int(blind) :], scale, rtol=0.02, err_msg=name)
  assert sum('.flow.' in name for name in seen) == 3 * 4


def test_free_bits():
  # Two layers of two maps, three images; means over the batch by hand.
  kl = jnp.array([[[1.0, 0.0], [0.5, 3.0]], [[2.0, 0.2], [0.1, 3.0]], [[3.0, 0.1], [0.0, 3.0]]])
  bound = Bound(jnp.array([-1.0, -2.0, -6.0]), kl, jnp.zeros(3))
  np.testing.assert_allclose(bound.loss(0.0), 3 + 2 + 0.1 + 0.2 + 3, rtol=1e-6)
  np.testing.assert_allclose(bound.loss(0.25), 3 + 2 + 0.25 + 0.25 + 3, rtol=1e-6)
  np.testing.assert_allclose(bound.elbo, [-5.5, -7.3, -12.1], rtol=1e-6)
  gradient = jax.grad(lambda kl: Bound(bound.log_likelihood, kl, bound.log_weight).loss(0.25))(kl)
  np.testing.assert_allclose(gradient[0], [[1 / 3, 0], [0, 1 / 3]], rtol=1e-6)


def test_parameters_of_the_authors_size():
  """Hand count: weights, one g and one b for each unit; and h_top and the scale of the logistic."""
  h, z, layers = 160, 32, 20
  unit = lambda inputs, outputs, window: outputs * (inputs * window**2 + 2)
  up = unit(h, 2 * z + 2 * h, 3) + unit(h, h, 3)
  down = unit(h, 4 * z + 2 * h, 3) + unit(h + z, h, 3)
  flow = unit(z, h, 3) + unit(h, h, 3) + 2 * unit(h, z, 3)
  expected = unit(3, h, 5) + layers * (up + down + flow) + unit(h, 3, 5) + h + 1
  make_ = lambda: ResNetVAE(
    (32, 32, 3),
    layers=Layers('wn', init_std=0.05, log_scale=3.0, rngs=nnx.Rngs(0)),
    is_iaf=True,
    depths=(10, 10),
    h=h,
    z=z,
    edge_bins='floor',
  )
  state = nnx.state(nnx.eval_shape(make_), nnx.Param)
  assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(state)) == expected
