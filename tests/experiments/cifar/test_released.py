"""The authors' normal parameterization, w = s W, against NumPy from the rules of their code."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import cifar
from experiments.cifar import released, train
from tests import configurations

CONFIG = configurations.frozen(cifar, 'plain_released,tiny', {'model.width': 2})


def test_a_layer_computes_s_W_x_plus_b():
  random = np.random.default_rng(0)
  x, scale = random.normal(size=(5, 3)), np.array([0.5, 2.0])
  layer = released.Linear(3, 2, rngs=nnx.Rngs(0))
  layer.fixed_scale[...] = jnp.asarray(scale)
  layer.bias[...] = jnp.array([1.0, -1.0])
  expected = x @ (np.asarray(layer.kernel[...], np.float64) * scale) + [1.0, -1.0]
  np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5)


def test_initialization_keeps_W_and_fixes_s():
  """s = 1/σ[W·x] and b = −μ/σ of the first layer, whose input is known; W stays as it was drawn."""
  images = jax.random.normal(jax.random.key(1), (200, 16, 16, 1))
  model = train.create_model(CONFIG, images.shape[1:], 10, jax.random.key(0))
  before = nnx.clone(model)
  train.initialize(model, images, jax.random.key(2), 1.0)
  first, drawn = model.block1[0].linear, before.block1[0].linear
  np.testing.assert_array_equal(first.kernel[...], drawn.kernel[...])
  bound = np.sqrt(6 / (9 * 1 + 9 * 2))  # Glorot & Bengio (2010), Eq. 16
  assert 0.7 * bound < np.abs(drawn.kernel[...]).max() <= bound

  rngs = nnx.Rngs(jax.random.key(2))
  x = images + CONFIG.model.noise_std * jax.random.normal(rngs.noise(), images.shape)
  padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, :, :, 0]
  t = np.einsum('bhwij,ijo->bhwo', windows, np.asarray(drawn.kernel[...], np.float64)[:, :, 0])
  mean, std = t.mean((0, 1, 2)), t.std((0, 1, 2))
  np.testing.assert_allclose(first.fixed_scale[...], 1 / std, rtol=1e-4)
  np.testing.assert_allclose(first.bias[...], -mean / std, atol=1e-4)


def test_the_first_step_moves_W_by_the_learning_rate_and_s_not_at_all():
  """Adam's first step is the learning rate times the sign of the gradient; times s in w."""
  images = jax.random.normal(jax.random.key(1), (50, 16, 16, 1))
  labels = jnp.arange(50) % 10
  model = train.create_model(CONFIG, images.shape[1:], 10, jax.random.key(0))
  train.initialize(model, images, jax.random.key(2), 1.0)
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = train.create_optimizer(CONFIG, steps_per_epoch=1)
  state = train.TrainState.create(params, model_state, optimizer, ema=False)
  new, _ = train.train_step(
    state, jnp.arange(50), images, labels, jax.random.key(3), graphdef=graphdef,
    optimizer=optimizer, ema_decay=0.0, with_diagnostics=False,
  )  # fmt: skip
  trained = nnx.merge(graphdef, new.params, new.model_state)
  rate = CONFIG.optimizer.learning_rate
  layers = [unit.linear for unit in (*model.block1, *model.block2, *model.block3, model.head)]
  moved = [u.linear for u in (*trained.block1, *trained.block2, *trained.block3, trained.head)]
  for layer, after in zip(layers, moved, strict=True):
    np.testing.assert_array_equal(after.fixed_scale[...], layer.fixed_scale[...])  # not trained
    step = np.abs(np.asarray(after.kernel[...]) - np.asarray(layer.kernel[...]))
    # √(v̂ + 1e-8) is just above |∇|, so that small gradients move less.
    assert step.max() <= 1.001 * rate and np.median(step) > 0.5 * rate
