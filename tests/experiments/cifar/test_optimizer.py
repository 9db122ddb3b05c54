"""Adam and its schedules against steps computed by hand, in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar import optimizer


@pytest.mark.parametrize(
  'epoch, expected', [(0, 1.0), (99, 1.0), (100, 1.0), (101, 0.99), (150, 0.5), (199, 0.01)]
)
def test_learning_rate_of_the_authors_200_epochs(epoch, expected):
  rate = optimizer.learning_rate(jnp.array(epoch), base=0.003, epochs=200)
  np.testing.assert_allclose(rate, 0.003 * expected, rtol=1e-5)


def test_learning_rate_scales_with_the_number_of_epochs():
  rates = [float(optimizer.learning_rate(jnp.array(e), base=1.0, epochs=12)) for e in range(12)]
  np.testing.assert_allclose(rates, [1] * 7 + [5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rtol=1e-5)


@pytest.mark.parametrize('epoch, expected', [(0, 0.9), (99, 0.9), (100, 0.5), (199, 0.5)])
def test_first_moment_decay_drops_at_half_time(epoch, expected):
  b1 = optimizer.first_moment_decay(jnp.array(epoch), first_half=0.9, second_half=0.5, epochs=200)
  assert float(b1) == pytest.approx(expected)


def reference_adam(theta, gradients, rates, b1s, b2, eps):
  """θ after each step: lr m̂ / √(v̂ + ε), with ε inside the root."""
  m = v = 0.0
  path = []
  for t, (g, rate, b1) in enumerate(zip(gradients, rates, b1s), start=1):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g * g
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    theta = theta - rate * m_hat / np.sqrt(v_hat + eps)
    path.append(theta)
  return path


@pytest.mark.parametrize('size', [1.0, 1e-4, 1e-8])  # ε = 1e-8 matters where |g| is near 1e-4
def test_adam_steps_with_both_schedules(size):
  gradients = size * np.random.default_rng(0).normal(size=(8, 3))
  steps_per_epoch, epochs = 2, 4
  rates = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]
  b1s = [0.9] * 4 + [0.5] * 4
  transformation = optimizer.adam(
    functools.partial(optimizer.learning_rate, base=0.1, epochs=epochs),
    functools.partial(optimizer.first_moment_decay, first_half=0.9, second_half=0.5, epochs=epochs),
    b2=0.999,
    eps_root=1e-8,
    steps_per_epoch=steps_per_epoch,
  )
  theta = jnp.array([1.0, -2.0, 0.5])
  state = transformation.init(theta)
  update = jax.jit(transformation.update)
  expected = reference_adam(np.array([1.0, -2.0, 0.5]), gradients, rates, b1s, 0.999, 1e-8)
  for g, reference in zip(gradients, expected):
    updates, state = update(jnp.asarray(g, jnp.float32), state)
    theta = theta + updates
    np.testing.assert_allclose(theta, reference, rtol=2e-5, atol=1e-6)


def test_epsilon_is_inside_the_root():
  """At |g| = 1e-4 = √ε the first step is lr/√2; with ε outside it would be almost lr."""
  transformation = optimizer.adam(
    lambda epoch: 0.1, lambda epoch: 0.9, b2=0.999, eps_root=1e-8, steps_per_epoch=1
  )
  updates, _ = transformation.update(jnp.array(1e-4), transformation.init(jnp.array(0.0)))
  np.testing.assert_allclose(updates, -0.1 / np.sqrt(2), rtol=1e-4)
