"""Attention windows against NumPy loops over the equations of Gregor et al. (2015)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.draw import attention

HEIGHT, WIDTH = 9, 12
# g̃_X, g̃_Y, log σ², log δ̃, log γ: the whole image, two smaller windows, one half outside.
PARAMETERS = np.array(
  [[0, 0, 0, 0, 0], [0.1, -0.2, -0.5, -1.5, 0.3], [-0.3, 0.4, 0.2, -2, -1], [0.9, 0.8, 0, -1, 0.5]],
  np.float32,
)


def numpy_filters(center, delta, variance, size, pixels):
  """F of Eq. 25 for one image, with i and a counted from 1 as in the paper."""
  filters = np.zeros((size, pixels))
  for i in range(1, size + 1):
    mean = center + (i - size / 2 - 0.5) * delta
    for a in range(1, pixels + 1):
      filters[i - 1, a - 1] = np.exp(-((a - mean) ** 2) / (2 * variance))
  return filters / (filters.sum(axis=1, keepdims=True) + 1e-4)


def numpy_window(parameters, size):
  """F_Y, F_X and γ for one image."""
  x, y, log_variance, log_delta, log_gamma = np.asarray(parameters, np.float64)
  g_x, g_y = (WIDTH + 1) / 2 * (x + 1), (HEIGHT + 1) / 2 * (y + 1)
  delta = (max(WIDTH, HEIGHT) - 1) / (size - 1) * np.exp(log_delta)
  variance = np.exp(log_variance)
  rows = numpy_filters(g_y, delta, variance, size, HEIGHT)
  columns = numpy_filters(g_x, delta, variance, size, WIDTH)
  return rows, columns, np.exp(log_gamma)


def make_window(parameters, size):
  return attention.make_window(jnp.asarray(parameters), size, HEIGHT, WIDTH)


@pytest.mark.parametrize('size', [2, 3, 5])
def test_read_and_write_follow_the_equations(size):
  rng = np.random.default_rng(size)
  images = rng.normal(size=(len(PARAMETERS), HEIGHT, WIDTH, 2)).astype(np.float32)
  patches = rng.normal(size=(len(PARAMETERS), size, size, 2)).astype(np.float32)
  window = make_window(PARAMETERS, size)
  read = attention.read(jnp.asarray(images), window, size)
  written = attention.write(jnp.asarray(patches), window, HEIGHT, WIDTH)
  for b, parameters in enumerate(PARAMETERS):
    rows, columns, gamma = numpy_window(parameters, size)
    for c in range(2):
      expected = gamma * rows @ images[b, :, :, c] @ columns.T
      np.testing.assert_allclose(read[b, :, :, c], expected, rtol=1e-4, atol=1e-5)
      expected = rows.T @ patches[b, :, :, c] @ columns / gamma
      np.testing.assert_allclose(written[b, :, :, c], expected, rtol=1e-4, atol=1e-5)


def test_what_was_read_and_written_again():
  """A smooth image comes back, where the window is, up to the blur of the filters."""
  image = np.add.outer(np.arange(HEIGHT), 2.0 * np.arange(WIDTH)).astype(np.float32)
  parameters = np.array([[0, 0, -1, -np.log(1.5), 0.7]], np.float32)
  window = make_window(parameters, 5)
  patch = attention.read(jnp.asarray(image)[None, :, :, None], window, 5)
  back = attention.write(patch, window, HEIGHT, WIDTH)[0, :, :, 0]
  rows, columns, _ = numpy_window(parameters[0], 5)
  expected = rows.T @ rows @ image @ columns.T @ columns
  np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-4)


def test_a_delta_image_is_read_as_the_filters_at_its_pixel():
  row, column, size = 3, 7, 4
  image = np.zeros((1, HEIGHT, WIDTH, 1), np.float32)
  image[0, row, column] = 1
  read = attention.read(jnp.asarray(image), make_window(PARAMETERS[1:2], size), size)
  rows, columns, gamma = numpy_window(PARAMETERS[1], size)
  expected = gamma * np.outer(rows[:, row], columns[:, column])
  assert expected.max() > 0.01
  np.testing.assert_allclose(read[0, :, :, 0], expected, rtol=1e-4, atol=1e-6)


def test_zeros_ask_for_a_grid_over_the_whole_image():
  """Filters on a square image: from its first to its last pixel."""
  size, side = 5, 9
  window = attention.make_window(jnp.zeros((1, 5)), size, side, side)
  filters = attention.filter_bank(
    window.center_x, window.stride, jnp.full(1, -5.0), size=size, pixels=side
  )
  np.testing.assert_array_equal(np.argmax(filters[0], axis=1), [0, 2, 4, 6, 8])


def test_rows_sum_to_one_inside_the_image():
  window = attention.make_window(jnp.asarray(PARAMETERS[:3]), 3, 28, 28)
  bank = attention.filter_bank(
    window.center_x, window.stride, window.log_variance, size=3, pixels=28
  )
  assert bank.shape == (3, 3, 28)
  np.testing.assert_allclose(bank.sum(-1), 1, atol=2e-4)
  far = attention.filter_bank(jnp.full(1, 500.0), jnp.ones(1), jnp.zeros(1), size=3, pixels=28)
  np.testing.assert_array_equal(far, 0)


@jax.jit
@jax.value_and_grad
def read_and_write_total(parameters):
  window = make_window(parameters, 3)
  patch = attention.read(jnp.ones((1, HEIGHT, WIDTH, 1)), window, 3)
  return jnp.sum(jnp.square(patch)) + jnp.sum(attention.write(patch + 1, window, HEIGHT, WIDTH))


@pytest.mark.parametrize(
  'parameters',
  [
    [30, -30, 0, 0, 0],  # far outside
    [1e4, 1e4, -5, 3, 0],
    [-1e6, 1e6, 10, 10, 5],
    [0.013, 0, -80, 0, 0],  # filters that are narrower than float32 squares can tell
    [0, 0, 40, 40, -5],  # and wider
  ],
)
def test_gradients_are_finite_wherever_the_window_is(parameters):
  value, gradient = read_and_write_total(jnp.array([parameters], jnp.float32))
  assert np.isfinite(value) and np.isfinite(gradient).all()


def test_gradients_against_finite_differences():
  """Of the filters, with respect to center, stride and variance, in a window half outside."""
  weights = np.random.default_rng(0).normal(size=(3, WIDTH))
  values = np.array([11.0, 2.5, 0.4])

  def numpy_total(v):
    return np.sum(weights * numpy_filters(v[0], v[1], np.exp(v[2]), 3, WIDTH))

  def total(v):
    bank = attention.filter_bank(*v[:, None], size=3, pixels=WIDTH)
    return jnp.sum(jnp.asarray(weights, jnp.float32) * bank[0])

  steps = 1e-5 * np.eye(3)
  expected = [(numpy_total(values + s) - numpy_total(values - s)) / 2e-5 for s in steps]
  gradient = jax.grad(total)(jnp.asarray(values, jnp.float32))
  np.testing.assert_allclose(gradient, expected, rtol=1e-3)
