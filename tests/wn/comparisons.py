"""Inputs and comparisons that several tests of `wn` share."""

import jax
import jax.numpy as jnp
import numpy as np


def random(*shape, seed=0):
  """Far from mean 0 and variance 1."""
  return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape) + 1, jnp.float32)


def checkerboard(*shape):
  """Zeros and ones, as a mask."""
  return jnp.asarray(np.indices(shape).sum(0) % 2, jnp.float32)


def f64(x):
  return np.asarray(x).astype(np.float64)


def assert_close(actual, expected, tolerance=3e-6):
  """Equal to a tolerance relative to the largest element."""
  actual, expected = f64(actual), f64(expected)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_moments(t, mean, std, tolerance=1e-5):
  """Moments per unit, the last axis, over all others."""
  t = f64(t)
  axes = tuple(range(t.ndim - 1))
  np.testing.assert_allclose(t.mean(axes), mean, atol=tolerance * std)
  np.testing.assert_allclose(t.std(axes), std, rtol=tolerance)
