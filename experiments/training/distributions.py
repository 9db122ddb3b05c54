"""Elementwise log-densities and divergences, in nats."""

import math

import jax
import jax.numpy as jnp

_LOG_2PI = 1.8378770664093453


def bernoulli_log_likelihood(x: jax.Array, logits: jax.Array) -> jax.Array:
  """log p(x) of x in {0, 1} (or in [0, 1]: the negative cross-entropy), in nats."""
  return x * logits - jax.nn.softplus(logits)


def gaussian_log_density(z: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
  """log N(z; mean, exp(log_std)²), in nats."""
  return -0.5 * jnp.square((z - mean) * jnp.exp(-log_std)) - log_std - 0.5 * _LOG_2PI


def standard_normal_log_density(z: jax.Array) -> jax.Array:
  """log N(z; 0, 1), in nats."""
  return -0.5 * jnp.square(z) - 0.5 * _LOG_2PI


def gaussian_kl(mean: jax.Array, log_std: jax.Array) -> jax.Array:
  """KL(N(mean, exp(log_std)²) ‖ N(0, 1)), in nats (Kingma & Welling 2014, appendix B)."""
  return 0.5 * (jnp.square(mean) + jnp.exp(2 * log_std) - 1) - log_std


def discretized_logistic_log_likelihood(
  x: jax.Array, mean: jax.Array, log_scale: jax.Array, *, bin_width: float = 1 / 256
) -> jax.Array:
  """Log-mass of a logistic distribution in the bin of x (Kingma et al. 2016, §5.2).

  The lowest and the highest bin include the tails, so the masses of all bins sum to 1.

  Args:
    x: lower edges of the bins: pixel/256 − 0.5 for pixels 0 … 255, times 256 `bin_width`.
    mean: of the logistic distribution, on the scale of x.
    log_scale: logarithm of its scale.
    bin_width: width of a bin.

  Returns:
    Finite values, however far x is from the mean.
  """
  half = 128 * bin_width
  log_mass, log_below, log_above = _logistic_bins(x, mean, log_scale, bin_width)
  tolerance = bin_width / 2
  is_lowest, is_highest = x < -half + tolerance, x > half - bin_width - tolerance
  log_mass = jnp.where(is_lowest, log_below, log_mass)
  return jnp.where(is_highest, log_above, log_mass)


def floored_logistic_log_likelihood(
  x: jax.Array,
  mean: jax.Array,
  log_scale: jax.Array,
  *,
  bin_width: float = 1 / 256,
  floor: float = 1e-7,
) -> jax.Array:
  """log(mass + floor), where no bin includes a tail, as in the authors' code.

  Otherwise as `discretized_logistic_log_likelihood`. The masses sum to 1 minus the tails.
  """
  log_mass, _, _ = _logistic_bins(x, mean, log_scale, bin_width)
  return jnp.logaddexp(log_mass, math.log(floor))


def _logistic_bins(
  x: jax.Array, mean: jax.Array, log_scale: jax.Array, bin_width: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-masses of the bin, of all below its upper edge, and of all above its lower edge."""
  inverse_scale = jnp.exp(-log_scale)
  log_below = jax.nn.log_sigmoid((x + bin_width - mean) * inverse_scale)
  log_above = jax.nn.log_sigmoid((mean - x) * inverse_scale)
  # σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{a−b}) avoids the difference of nearly equal numbers.
  inner = jnp.log(-jnp.expm1(-bin_width * inverse_scale))
  return log_below + log_above + inner, log_below, log_above
