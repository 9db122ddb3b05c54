"""Adamax against steps computed by hand, in float64 NumPy, and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.training.optimizers import adamax


def tree_of(rng, scale=1.0):
  """A small random pytree, float64; some elements are zero."""
  draw = lambda *shape: scale * rng.normal(size=shape) * (rng.random(shape) < 0.8)
  return {'dense': {'kernel': draw(3, 4), 'bias': draw(4)}, 'scale': [draw(), draw(2, 1, 3)]}


def as_float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def path_of(transformation, gradients):
  """The update of every step, for a list of gradients."""
  state = transformation.init(jax.tree.map(jnp.zeros_like, gradients[0]))
  step = jax.jit(transformation.update)
  updates = []
  for gradient in gradients:
    update, state = step(gradient, state)
    updates.append(update)
  return updates


def assert_trees_close(actual, expected, **tolerance):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def test_three_steps_by_hand():
  """b1 = 0.5, b2 = 0.9, α = 0.1, gradients 2, −1, 0.

  m: 1, 0, 0. u: 2, max(1.8, 1) = 1.8, max(1.62, 0) = 1.62.
  """
  gradients = [jnp.float32(2), jnp.float32(-1), jnp.float32(0)]
  updates = path_of(adamax(0.1, b1=0.5, b2=0.9), gradients)
  np.testing.assert_allclose(updates, [-0.1 * 1 / 2, 0, 0], rtol=1e-6, atol=1e-9)


def test_three_steps_by_hand_in_which_the_maximum_moves():
  """b1 = 0.5, b2 = 0.5, α = 0.1, gradients 1, 4, −1: m 1/2, 9/4, 5/8; u 1, 4, max(2, 1)."""
  gradients = [jnp.float32(1), jnp.float32(4), jnp.float32(-1)]
  updates = path_of(adamax(0.1, b1=0.5, b2=0.5), gradients)
  np.testing.assert_allclose(updates, [-0.1 / 2, -0.1 * 9 / 16, -0.1 * 5 / 16], rtol=1e-6)


@pytest.mark.parametrize('size', [1.0, 1e-4, 1e-8, 1e-12])  # eps = 1e-8 matters for the last two
def test_random_steps_on_a_tree(size):
  rng = np.random.default_rng(0)
  learning_rate, b1, b2, eps = 0.002, 0.9, 0.999, 1e-8
  transformation = adamax(learning_rate, b1=b1, b2=b2, eps=eps)
  theta = tree_of(rng)
  params = as_float32(theta)
  leaves, structure = jax.tree.flatten(theta)
  ms, us = [np.zeros_like(x) for x in leaves], [np.zeros_like(x) for x in leaves]
  state = transformation.init(params)
  step = jax.jit(transformation.update)
  for _ in range(20):
    gradients = as_float32(tree_of(rng, size * rng.choice([0.1, 1, 10])))
    updates, state = step(gradients, state, params)
    params = optax.apply_updates(params, updates)
    expected = []
    for i, gradient in enumerate(jax.tree.leaves(gradients)):
      gradient = np.asarray(gradient).astype(np.float64)
      ms[i] = b1 * ms[i] + (1 - b1) * gradient
      us[i] = np.maximum(b2 * us[i], np.abs(gradient) + eps)
      expected.append(-learning_rate * ms[i] / us[i])
      leaves[i] = leaves[i] + expected[i]
    assert_trees_close(updates, structure.unflatten(expected), rtol=1e-4, atol=1e-9)
    assert_trees_close(params, structure.unflatten(leaves), rtol=1e-6, atol=1e-6)
  assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float32, params))


@pytest.mark.parametrize('b1', [0.0, 0.9, 0.99])
@pytest.mark.parametrize('gradient', [-30.0, -1e-3, 0.5, 1e6])
def test_first_step_has_the_sign_of_the_gradient_only(gradient, b1):
  (update,) = path_of(adamax(0.01, b1=b1), [jnp.float32(gradient)])
  np.testing.assert_allclose(update, -(1 - b1) * 0.01 * np.sign(gradient), rtol=2e-5)


def test_eps_is_added_to_the_absolute_value_of_the_gradient():
  (update,) = path_of(adamax(1.0, b1=0.0, eps=0.5), [jnp.float32(-1.5)])
  np.testing.assert_allclose(update, 1.5 / 2, rtol=1e-6)


def test_constant_gradients_approach_steps_of_the_learning_rate():
  updates = path_of(adamax(0.1, b1=0.9), [jnp.float32(-7)] * 60)
  np.testing.assert_allclose(updates, 0.1 * (1 - 0.9 ** np.arange(1, 61)), rtol=1e-5)


def test_no_step_is_longer_than_the_learning_rate():
  """For gradients of one size and changing sign: |m| ≤ |g| ≤ u."""
  rng = np.random.default_rng(1)
  gradients = [jnp.asarray(rng.choice([-1.0, 1.0], 50), jnp.float32) for _ in range(30)]
  assert np.abs(path_of(adamax(0.1), gradients)).max() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize('first', [0.0, 3.0, 1e-30])
def test_zero_gradients_give_no_nan(first):
  updates = path_of(adamax(0.1), [jnp.float32(first)] + [jnp.float32(0)] * 200)
  assert np.isfinite(updates).all()
  if first == 0:
    assert not np.any(updates)
  else:
    # m ∝ b1^t over u ∝ b2^t, or eps where that is more: the steps die out.
    assert (np.diff(np.abs(updates)) <= 0).all()
    assert abs(updates[-1]) < 1e-9


@pytest.mark.parametrize('size', [1.0, 1e-7])
@pytest.mark.parametrize('b1', [0.5, 0.9])
def test_steps_are_those_of_optax_times_one_minus_b1_to_the_t(b1, size):
  rng = np.random.default_rng(2)
  gradients = [as_float32(tree_of(rng, size)) for _ in range(20)]
  ours = path_of(adamax(0.01, b1=b1, b2=0.99, eps=1e-8), gradients)
  corrected = path_of(optax.adamax(0.01, b1=b1, b2=0.99, eps=1e-8), gradients)
  for t, (a, b) in enumerate(zip(ours, corrected), start=1):
    assert_trees_close(a, jax.tree.map(lambda x: (1 - b1**t) * x, b), rtol=1e-4, atol=1e-9)  # noqa: B023
