"""Log-densities and divergences against SciPy in float64, closed forms and integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from experiments.training import distributions

PIXELS = np.arange(256) / 256 - 0.5
MEANS = (0.0, 0.1234, -0.4321, 0.5, -0.5, 1.0, -1.0, 50.0, -50.0)
LOG_SCALES = (-8.0, -6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0)


def float32(*arrays):
  """Arrays rounded to float32, first for the code under test, then the same in float64."""
  rounded = [np.asarray(array, np.float32) for array in arrays]
  return [jnp.asarray(array) for array in rounded], [array.astype(np.float64) for array in rounded]


# --- Bernoulli ---


@pytest.mark.parametrize('p_of_x', ['bits', 'gray'])
def test_bernoulli_is_the_log_of_the_probability(p_of_x):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 2, (50, 4)) if p_of_x == 'bits' else rng.random((50, 4))
  (x32, logits32), (x, logits) = float32(x, rng.normal(scale=3, size=(50, 4)))
  p = 1 / (1 + np.exp(-logits))
  expected = x * np.log(p) + (1 - x) * np.log(1 - p)
  actual = distributions.bernoulli_log_likelihood(x32, logits32)
  assert actual.shape == x.shape
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


def test_bernoulli_probabilities_of_0_and_1_sum_to_1():
  logits = jnp.linspace(-120, 120, 481)
  of_0, of_1 = (
    np.asarray(distributions.bernoulli_log_likelihood(jnp.full_like(logits, x), logits))
    for x in (0, 1)
  )
  np.testing.assert_allclose(np.exp(of_0) + np.exp(of_1), 1, atol=2e-5)
  np.testing.assert_allclose(of_0, of_1[::-1], atol=2e-5)


@pytest.mark.parametrize('size', [100.0, 1e4, 1e30])
@pytest.mark.parametrize('x', [0.0, 1.0])
@pytest.mark.parametrize('sign', [-1, 1])
def test_bernoulli_of_extreme_logits(size, x, sign):
  is_right = (sign > 0) == (x > 0)
  value, slope = jax.value_and_grad(distributions.bernoulli_log_likelihood, argnums=1)(
    jnp.float32(x), jnp.float32(sign * size)
  )
  np.testing.assert_allclose(value, 0 if is_right else -size, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(slope, 0 if is_right else -sign, atol=1e-6)


def test_bernoulli_gradient_is_x_minus_p():
  (x32, logits32), (x, logits) = float32([0.0, 1.0, 0.3, 0.0, 1.0], [2.0, -1.0, 0.0, 40.0, -40.0])
  slope = jax.grad(lambda a: jnp.sum(distributions.bernoulli_log_likelihood(x32, a)))(logits32)
  np.testing.assert_allclose(slope, x - 1 / (1 + np.exp(-logits)), rtol=1e-5, atol=1e-6)


# --- Gaussian ---


def test_gaussian_log_density():
  rng = np.random.default_rng(1)
  (z32, mean32, log_std32), (z, mean, log_std) = float32(
    rng.normal(size=(100, 3)), rng.normal(size=(100, 3)), rng.uniform(-3, 3, (100, 3))
  )
  actual = distributions.gaussian_log_density(z32, mean32, log_std32)
  assert actual.shape == z.shape
  np.testing.assert_allclose(
    actual, scipy.stats.norm.logpdf(z, mean, np.exp(log_std)), rtol=1e-5, atol=1e-5
  )


def test_standard_normal_log_density():
  (z32,), (z,) = float32(np.linspace(-20, 20, 201))
  np.testing.assert_allclose(
    distributions.standard_normal_log_density(z32), scipy.stats.norm.logpdf(z), rtol=1e-6
  )


def gaussian_kls(mean, log_std):
  value, slopes = jax.value_and_grad(distributions.gaussian_kl, argnums=(0, 1))(
    jnp.float32(mean), jnp.float32(log_std)
  )
  return float(value), [float(slope) for slope in slopes]


@pytest.mark.parametrize('mean', [-3.0, 0.0, 0.5, 10.0])
@pytest.mark.parametrize('log_std', [-3.0, -0.5, 0.0, 1.0])
def test_gaussian_kl_is_the_integral_and_the_closed_form(mean, log_std):
  std = np.exp(log_std)
  q, p = scipy.stats.norm(mean, std), scipy.stats.norm()
  integral, _ = scipy.integrate.quad(
    lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), mean - 12 * std, mean + 12 * std
  )
  # KL(N(μ, σ²) ‖ N(ν, τ²)) = log(τ/σ) + (σ² + (μ − ν)²) / 2τ² − 1/2 at ν = 0, τ = 1.
  closed = np.log(1 / std) + (std**2 + mean**2) / 2 - 1 / 2
  value, (by_mean, by_log_std) = gaussian_kls(mean, log_std)
  np.testing.assert_allclose(value, integral, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(value, closed, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(by_mean, mean, rtol=1e-6)
  np.testing.assert_allclose(by_log_std, std**2 - 1, rtol=1e-5, atol=1e-6)


def test_gaussian_kl_is_zero_at_the_prior_and_positive_elsewhere():
  assert gaussian_kls(0.0, 0.0) == (0.0, [0.0, 0.0])
  mean, log_std = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9))
  kl = np.asarray(distributions.gaussian_kl(jnp.asarray(mean), jnp.asarray(log_std)))
  assert (np.delete(kl.ravel(), 40) > 0.02).all()
  assert kl[4, 4] == 0


def test_gaussian_kl_is_the_mean_of_log_q_less_log_p_over_samples():
  mean, log_std = jnp.float32(0.7), jnp.float32(-0.4)
  z = mean + jnp.exp(log_std) * jax.random.normal(jax.random.key(0), (400_000,))
  difference = distributions.gaussian_log_density(
    z, jnp.full_like(z, mean), jnp.full_like(z, log_std)
  ) - distributions.standard_normal_log_density(z)
  error = float(jnp.std(difference)) / np.sqrt(z.size)
  np.testing.assert_allclose(
    jnp.mean(difference), distributions.gaussian_kl(mean, log_std), atol=4 * error
  )


# --- discretized logistic ---


def reference_log_mass(mean, log_scale, bin_width=1 / 256, tails=True):
  """[256] log P(edge ≤ X < edge + width), float64; the outer bins take the tails, or do not.

  Of the CDF left of the mean and of the survival function right of it, so that no tail is lost.
  """
  logistic = scipy.stats.logistic(mean, np.exp(log_scale))
  edges = (np.arange(257) - 128) * bin_width
  log_cdf, log_sf = logistic.logcdf(edges), logistic.logsf(edges)
  is_left = edges[1:] <= mean
  larger = np.where(is_left, log_cdf[1:], log_sf[:-1])
  smaller = np.where(is_left, log_cdf[:-1], log_sf[1:])
  mass = larger + np.log(-np.expm1(smaller - larger))
  if tails:
    mass[0], mass[-1] = log_cdf[1], log_sf[255]
  return mass


def log_masses(mean, log_scale, bin_width=1 / 256, dtype=np.float32):
  """[256] of the code under test."""
  x = jnp.asarray(np.asarray(PIXELS * 256 * bin_width, dtype))
  fill = lambda value: jnp.full_like(x, value)
  actual = distributions.discretized_logistic_log_likelihood(
    x, fill(mean), fill(log_scale), bin_width=bin_width
  )
  assert actual.dtype == dtype
  return np.asarray(actual)


def test_the_reference_is_differences_of_the_cdf():
  cdf = scipy.stats.logistic(0.1, np.exp(-1.0)).cdf
  mass = np.exp(reference_log_mass(0.1, -1.0))
  np.testing.assert_allclose(mass[1:-1], cdf(PIXELS[2:]) - cdf(PIXELS[1:-1]), rtol=1e-9)
  np.testing.assert_allclose(mass[[0, -1]], [cdf(PIXELS[1]), 1 - cdf(PIXELS[-1])], rtol=1e-9)
  np.testing.assert_allclose(mass.sum(), 1, rtol=1e-12)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('mean', MEANS)
def test_masses_of_all_bins_sum_to_1(mean, log_scale):
  mass = np.exp(log_masses(mean, log_scale).astype(np.float64))
  # float32 knows (edge − mean)/scale to 1e-4 at the smallest scale; the errors of bins cancel.
  np.testing.assert_allclose(mass.sum(), 1, rtol=0, atol=1e-5)


def test_masses_of_all_bins_sum_to_1_for_random_means_and_scales():
  rng = np.random.default_rng(2)
  for mean, log_scale in zip(rng.normal(scale=0.7, size=100), rng.uniform(-8, 2, 100)):
    mass = np.exp(log_masses(mean, log_scale).astype(np.float64))
    np.testing.assert_allclose(mass.sum(), 1, rtol=0, atol=2e-5)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('mean', MEANS)
def test_log_masses_are_cdf_differences(mean, log_scale):
  mean = float(np.float32(mean))
  expected = reference_log_mass(mean, log_scale)
  # Rounding (edge − mean)/scale to float32.
  distance = np.abs(PIXELS - mean) * np.exp(-log_scale)
  actual = log_masses(mean, log_scale)
  assert np.isfinite(actual).all()
  np.testing.assert_array_less(np.abs(actual - expected), 5e-6 + 5e-7 * distance)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('mean', MEANS)
def test_log_masses_are_cdf_differences_in_float64(mean, log_scale):
  with jax.enable_x64(True):
    actual = log_masses(mean, log_scale, dtype=np.float64)
  np.testing.assert_allclose(
    actual, reference_log_mass(mean, log_scale), rtol=1e-11, atol=1e-11, equal_nan=False
  )


@pytest.mark.parametrize('bin_width', [1 / 256, 1 / 255, 1 / 127.5, 1 / 8, 1.0])
def test_other_bin_widths(bin_width):
  """Also those whose edges float32 must round: the outer bins are found all the same."""
  for mean, log_scale in ((0.1, -2.0), (20.0, 0.0), (-20.0, 0.0)):
    mean, log_scale = mean * 256 * bin_width, log_scale + np.log(256 * bin_width)
    actual = log_masses(mean, log_scale, bin_width)
    expected = reference_log_mass(mean, log_scale, bin_width)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(actual.astype(np.float64)).sum(), 1, atol=1e-5)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('bins', [-1e6, -1e3, 1e3, 1e6])
def test_value_and_gradients_are_finite_for_a_mean_far_from_the_bin(bins, log_scale):
  """The logarithm falls by distance/scale there: slopes ±1/scale in the mean."""
  pixels = np.array([0, 1, 128, 254, 255])
  x = jnp.asarray(np.float32(PIXELS[pixels]))
  means = x + np.float32(bins / 256)
  log_scales = jnp.full_like(x, log_scale)
  total = lambda *args: jnp.sum(distributions.discretized_logistic_log_likelihood(x, *args))
  value = np.asarray(distributions.discretized_logistic_log_likelihood(x, means, log_scales))
  by_mean, by_log_scale = map(np.asarray, jax.grad(total, (0, 1))(means, log_scales))
  for array in (value, by_mean, by_log_scale):
    assert np.isfinite(array).all()

  inverse_scale = np.exp(-log_scale)
  if abs(bins) / 256 * inverse_scale < 30:
    return  # not far in units of the scale
  takes_the_tail = pixels == (255 if bins > 0 else 0)
  np.testing.assert_allclose(value[takes_the_tail], 0, atol=1e-6)
  np.testing.assert_allclose(by_mean[takes_the_tail], 0, atol=1e-6)
  np.testing.assert_allclose(
    by_mean[~takes_the_tail], -np.sign(bins) * inverse_scale, rtol=1e-4, atol=0
  )
  distance = abs(bins) / 256 * inverse_scale
  np.testing.assert_allclose(by_log_scale[~takes_the_tail], distance, rtol=2e-2)
  expected = [reference_log_mass(float(m), log_scale)[p] for m, p in zip(means, pixels)]
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('log_scale', [-5.0, -3.0, -1.0, 1.0])
def test_gradients_are_central_finite_differences_of_the_reference(log_scale):
  mean, h = float(np.float32(0.05)), 1e-5
  x = jnp.asarray(np.float32(PIXELS))
  gradients = jax.vmap(
    jax.grad(distributions.discretized_logistic_log_likelihood, argnums=(1, 2)),
    in_axes=(0, None, None),
  )
  by_mean, by_log_scale = gradients(x, jnp.float32(mean), jnp.float32(log_scale))
  slope = lambda f: (f(h) - f(-h)) / (2 * h)
  expected_by_mean = slope(lambda h: reference_log_mass(mean + h, log_scale))
  expected_by_log_scale = slope(lambda h: reference_log_mass(mean, log_scale + h))
  unit = np.exp(-log_scale)
  np.testing.assert_allclose(by_mean, expected_by_mean, rtol=1e-4, atol=1e-4 * unit)
  np.testing.assert_allclose(by_log_scale, expected_by_log_scale, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize('log_scale', [-6.0, -3.0, 0.0])
def test_mass_falls_with_the_distance_from_the_mean(log_scale):
  interior = log_masses(PIXELS[100] + 1 / 512, log_scale)[1:-1]
  assert (np.diff(interior[:100]) > 0).all()
  assert (np.diff(interior[99:]) < 0).all()


@pytest.mark.parametrize('log_scale', [-6.0, -3.0, 0.0])
def test_mass_as_a_function_of_the_mean(log_scale):
  """An inner bin has the most mass with the mean at its center, an outer one far outside."""
  means = jnp.asarray(np.linspace(-3, 3, 385), jnp.float32)
  of_pixel = lambda pixel: np.asarray(
    distributions.discretized_logistic_log_likelihood(
      jnp.full_like(means, PIXELS[pixel]), means, jnp.full_like(means, log_scale)
    )
  )
  assert (np.diff(of_pixel(0)) <= 0).all()
  assert (np.diff(of_pixel(255)) >= 0).all()
  for pixel in (1, 77, 254):
    mass = of_pixel(pixel)
    center = PIXELS[pixel] + 1 / 512
    left = np.asarray(means) < center
    assert (np.diff(mass[left]) > 0).all()
    assert (np.diff(mass[~left]) < 0).all()
  assert (of_pixel(0)[[0, -1]] == [pytest.approx(0, abs=0.1), of_pixel(0).min()]).all()


@pytest.mark.parametrize(('mean', 'log_scale'), [(0.1, -5.0), (0.4, -2.0), (2.0, 0.0)])
def test_mirrored_means_give_mirrored_masses(mean, log_scale):
  np.testing.assert_allclose(
    log_masses(mean, log_scale), log_masses(-mean, log_scale)[::-1], rtol=1e-5, atol=1e-5
  )


# --- discretized logistic with a floor, as in the authors' code ---


def floored_log_masses(mean, log_scale, dtype=np.float32, **kwargs):
  """[256] of the code under test."""
  x = jnp.asarray(np.asarray(PIXELS, dtype))
  fill = lambda value: jnp.full_like(x, value)
  actual = distributions.floored_logistic_log_likelihood(x, fill(mean), fill(log_scale), **kwargs)
  assert actual.dtype == dtype
  return np.asarray(actual)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('mean', MEANS)
def test_floored_masses_are_cdf_differences_and_the_floor(mean, log_scale):
  mean = float(np.float32(mean))
  mass = np.exp(reference_log_mass(mean, log_scale, tails=False))
  cdf = scipy.stats.logistic(mean, np.exp(log_scale)).cdf(np.append(PIXELS, 0.5))
  np.testing.assert_allclose(mass, np.diff(cdf), atol=1e-15)
  expected = np.log(mass + 1e-7)
  distance = np.abs(PIXELS - mean) * np.exp(-log_scale)
  tolerance = np.where(distance < 100, 5e-6 + 5e-7 * distance, 5e-6)
  np.testing.assert_array_less(np.abs(floored_log_masses(mean, log_scale) - expected), tolerance)
  with jax.enable_x64(True):
    actual = floored_log_masses(mean, log_scale, dtype=np.float64)
  np.testing.assert_allclose(actual, expected, rtol=1e-11)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('mean', MEANS)
def test_floored_masses_sum_to_1_less_the_tails_plus_the_floors(mean, log_scale):
  logistic = scipy.stats.logistic(float(np.float32(mean)), np.exp(log_scale))
  expected = 1 - logistic.cdf(-0.5) - logistic.sf(0.5) + 256 * 1e-7
  actual = np.exp(floored_log_masses(mean, log_scale).astype(np.float64)).sum()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(('mean', 'log_scale'), [(0.1, -3.0), (0.45, -2.0), (-0.49, -4.0), (0, 0)])
def test_the_two_forms_differ_at_the_edges_and_by_the_floor(mean, log_scale):
  with jax.enable_x64(True):
    tails = np.exp(log_masses(mean, log_scale, dtype=np.float64))
    floored = np.exp(floored_log_masses(mean, log_scale, dtype=np.float64)) - 1e-7
  logistic = scipy.stats.logistic(mean, np.exp(log_scale))
  np.testing.assert_allclose(floored[1:-1], tails[1:-1], rtol=1e-9, atol=1e-15)
  beyond = [logistic.cdf(-0.5), logistic.sf(0.5)]
  np.testing.assert_allclose(tails[[0, -1]] - floored[[0, -1]], beyond, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize('log_scale', LOG_SCALES)
@pytest.mark.parametrize('bins', [-1e6, -1e5, 1e5, 1e6])
def test_a_mean_far_from_the_bin_has_the_floor_and_no_gradient(bins, log_scale):
  """In every bin: none takes a tail."""
  x = jnp.asarray(np.float32(PIXELS[[0, 1, 128, 254, 255]]))
  means = x + np.float32(bins / 256)
  if abs(bins) / 256 * np.exp(-log_scale) < 200:
    means = x + np.sign(bins) * np.float32(200 * np.exp(log_scale))
  log_scales = jnp.full_like(x, log_scale)
  total = lambda *args: jnp.sum(distributions.floored_logistic_log_likelihood(x, *args))
  value = distributions.floored_logistic_log_likelihood(x, means, log_scales)
  np.testing.assert_allclose(value, np.log(1e-7), rtol=1e-6)
  for slope in jax.grad(total, (0, 1))(means, log_scales):
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize('log_scale', [-5.0, -3.0, -1.0, 1.0])
def test_gradients_of_the_floored_form_are_central_finite_differences(log_scale):
  mean, h = float(np.float32(0.05)), 1e-5
  x = jnp.asarray(np.float32(PIXELS))
  gradients = jax.vmap(
    jax.grad(distributions.floored_logistic_log_likelihood, argnums=(1, 2)),
    in_axes=(0, None, None),
  )
  actual = gradients(x, jnp.float32(mean), jnp.float32(log_scale))
  reference = lambda mean, log_scale: np.log(
    np.exp(reference_log_mass(mean, log_scale, tails=False)) + 1e-7
  )
  slope = lambda f: (f(h) - f(-h)) / (2 * h)
  by_mean = slope(lambda h: reference(mean + h, log_scale))
  by_log_scale = slope(lambda h: reference(mean, log_scale + h))
  unit = np.exp(-log_scale)
  np.testing.assert_allclose(actual[0], by_mean, rtol=1e-4, atol=1e-4 * unit)
  np.testing.assert_allclose(actual[1], by_log_scale, rtol=1e-4, atol=2e-4)


def test_another_floor():
  actual = floored_log_masses(3.0, -4.0, floor=1e-3)
  np.testing.assert_allclose(actual, np.log(1e-3), rtol=1e-6)
