"""The network: size, shapes, pooling, and where the parameterizations differ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import cifar, variants
from experiments.cifar import model as model_lib
from experiments.cifar.train import create_model, initialize
from experiments.runtime import winograd
from experiments.training.state import num_params
from tests import configurations


def make(variant, image_shape=(16, 16, 3), **changes):
  changes = {f'model.{key}': value for key, value in changes.items()}
  config = configurations.frozen(cifar, variant, changes)
  return create_model(config, image_shape, 10, jax.random.key(0))


# Kernels: 27·96 + 2·864·96 + 864·192 + 2·1728·192 + 1728·192 + 2·192·192 + 192·10.
KERNELS = 2_592 + 2 * 82_944 + 165_888 + 2 * 331_776 + 331_776 + 2 * 36_864 + 1_920
UNITS = 3 * 96 + 6 * 192 + 10


@pytest.mark.parametrize(
  'variant, per_unit',
  [
    ('plain', 1),  # b
    ('wn', 2),  # g, b
    ('bn', 2),  # scale and bias after the norm
    ('mean_bn', 1),  # b
    ('wn_mean_bn', 2),  # g, b
    ('plain_released', 1),  # b
  ],
)
def test_parameter_count_at_full_width_is_the_hand_count(variant, per_unit):
  model = nnx.eval_shape(lambda: make(variant, (32, 32, 3)))
  assert num_params(nnx.state(model, nnx.Param)) == KERNELS + per_unit * UNITS


def test_hand_count():
  assert KERNELS == 1_405_344
  assert UNITS == 1_450


def test_shapes_through_the_network():
  model = make('plain', (32, 32, 3), width=4)
  logits = model(jnp.zeros((2, 32, 32, 3)), train=False)
  assert logits.shape == (2, 10)
  kernels = [u.linear.kernel[...].shape for u in [*model.block1, *model.block2, *model.block3]]
  assert kernels == [
    (3, 3, 3, 4), (3, 3, 4, 4), (3, 3, 4, 4),
    (3, 3, 4, 8), (3, 3, 8, 8), (3, 3, 8, 8),
    (3, 3, 8, 8), (1, 1, 8, 8), (1, 1, 8, 8),
  ]  # fmt: skip


def test_depth_of_the_first_two_blocks():
  model = make('plain', (16, 16, 3), width=4, block_depth=1)
  assert model(jnp.zeros((2, 16, 16, 3)), train=False).shape == (2, 10)
  kernels = [[unit.linear.kernel[...].shape for unit in b] for b in (model.block1, model.block2)]
  assert kernels == [[(3, 3, 3, 4)], [(3, 3, 4, 8)]]


@pytest.mark.parametrize('height, width', [(4, 6), (5, 7), (2, 2)])
def test_max_pool_is_the_largest_of_each_square(height, width):
  x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
  expected = np.array(
    [
      [[x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1)) for j in range(width // 2)]
       for i in range(height // 2)]
      for b in range(2)
    ]
  )  # fmt: skip
  np.testing.assert_array_equal(model_lib.max_pool(jnp.asarray(x)), expected)


def test_leaky_relu_has_slope_one_tenth():
  np.testing.assert_allclose(model_lib.leaky_relu(jnp.array([-2.0, 0.0, 3.0])), [-0.2, 0.0, 3.0])


def test_batch_norm_statistics_are_the_authors():
  """Running averages with factor 0.9; the variance times n/(n−1), n the number of images."""
  rng = np.random.default_rng(0)
  norm = model_lib.BatchNorm(2, momentum=0.9, epsilon=1e-6, rngs=nnx.Rngs(0))
  mean, var = np.zeros(2), np.ones(2)
  for _ in range(3):
    x = rng.normal(1.0, 2.0, size=(5, 3, 3, 2)).astype(np.float32)
    y = norm(jnp.asarray(x), use_running_average=False)
    batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(
      y, (x - batch_mean) / np.sqrt(batch_var + 1e-6), rtol=1e-4, atol=1e-5
    )
    mean = 0.9 * mean + 0.1 * batch_mean
    var = 0.9 * var + 0.1 * batch_var * 5 / 4
  np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
  np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)
  y = norm(jnp.asarray(x), use_running_average=True)
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variant', ['plain', 'wn', 'mean_bn', 'wn_mean_bn', 'plain_released'])
def test_initialization_normalizes_the_logits_with_noise_and_dropout_active(variant):
  model = make(variant, width=4)
  images = jax.random.normal(jax.random.key(1), (200, 16, 16, 3))
  key = jax.random.key(2)
  initialize(model, images, key, 1.0)
  logits = model(images, train=True, rngs=nnx.Rngs(key))
  np.testing.assert_allclose(np.mean(logits, 0), 0, atol=1e-4)
  np.testing.assert_allclose(np.std(logits, 0), 1, atol=1e-3)


@pytest.mark.parametrize('variant', ['mean_bn', 'wn_mean_bn'])
def test_biases_after_mean_only_batch_norm_start_at_zero(variant):
  model = make(variant, width=4)
  initialize(model, jax.random.normal(jax.random.key(1), (50, 16, 16, 3)), jax.random.key(2), 1.0)
  for unit in model.block2:
    assert unit.linear.bias is None
    np.testing.assert_array_equal(unit.norm.bias[...], 0)


def test_evaluation_is_deterministic_and_training_is_not():
  model = make('wn', width=4)
  x = jax.random.normal(jax.random.key(0), (20, 16, 16, 3))
  initialize(model, x, jax.random.key(1), 1.0)
  np.testing.assert_array_equal(model(x, train=False), model(x, train=False))
  first = model(x, train=True, rngs=nnx.Rngs(0))
  assert np.abs(first - model(x, train=True, rngs=nnx.Rngs(1))).max() > 1e-3
  np.testing.assert_array_equal(first, model(x, train=True, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize('variant', variants.CIFAR_PAPER)
def test_bfloat16_is_used_for_hidden_units_only(variant):
  model = make(variant, (16, 16, 3), width=8, dtype='bfloat16')
  images = jax.random.normal(jax.random.key(1), (50, 16, 16, 3))
  if variant != 'bn':
    initialize(model, images, jax.random.key(2), 1.0)
  exact = make(variant, (16, 16, 3), width=8)
  nnx.update(exact, nnx.state(model))

  def loss(model):
    return jnp.mean(model(images, train=True, rngs=nnx.Rngs(3)) ** 2)

  assert model.block2[1](jnp.zeros((2, 8, 8, 16), jnp.bfloat16), train=True).dtype == jnp.bfloat16
  assert model(images, train=False).dtype == jnp.float32
  gradients = nnx.grad(loss)(model)
  assert {x.dtype for x in jax.tree.leaves((gradients, nnx.state(model)))} == {np.dtype('float32')}
  # Up to what bfloat16 loses in ten layers, where maxima and signs switch.
  for ours, theirs in (
    (gradients, nnx.grad(loss)(exact)),
    (nnx.state(model, nnx.BatchStat), nnx.state(exact, nnx.BatchStat)),
  ):
    difference = jax.tree.map(jnp.subtract, ours, theirs)
    assert optax.tree.norm(difference) <= 0.3 * optax.tree.norm(theirs)


@pytest.mark.parametrize('variant', variants.CIFAR_PAPER)
def test_bias_gradient_of_bfloat16_units_is_summed_in_float32(variant):
  unit = make(variant, (16, 16, 3), width=8, dtype='bfloat16').block1[1]
  x = jnp.zeros((8, 16, 16, 8), jnp.bfloat16)
  gradient = nnx.grad(lambda unit: jnp.sum(unit(x, train=True).astype(jnp.float32)))(unit)
  bias = gradient.norm.bias if unit.norm else gradient.linear.bias
  np.testing.assert_array_equal(bias[...], 8 * 16 * 16)


def test_fast_convolution_trains_alike():
  """At a width where it is used, in the layers of the network."""
  images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
  config = cifar.get_config('wn')
  config.model.width = winograd.MIN_FEATURES
  plain, fast = (
    create_model(config, images.shape[1:], 10, jax.random.key(0), conv)
    for conv in (jax.lax.conv_general_dilated, winograd.conv_general_dilated)
  )
  loss = lambda m: jnp.mean(m(images, train=True, rngs=nnx.Rngs(3)) ** 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * jnp.abs(b).max()),
    nnx.grad(loss)(fast),
    nnx.grad(loss)(plain),
  )
