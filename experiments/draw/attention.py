"""The attention of DRAW: an N×N grid of Gaussian filters on an image (Gregor et al. 2015, §3.2).

Positions in an image are a = 1 … A, as in the paper's equations, so g̃ = 0 is the center.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

PARAMETERS = 5  # of a window
# Added to a filter's sum before dividing by it, as in the public implementation: a filter far
# outside the image is then 0, with finite gradients.
TOLERANCE = 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window:
  """A window for each image of a batch; attributes are [B], or [T, B] over glimpses.

  Attributes:
    center_x: g_X, column of the grid's center.
    center_y: g_Y, row of the grid's center.
    stride: δ, distance between filters in pixels.
    log_variance: log σ² of the filters, in pixels².
    log_intensity: log γ.
  """

  center_x: jax.Array
  center_y: jax.Array
  stride: jax.Array
  log_variance: jax.Array
  log_intensity: jax.Array


def make_window(parameters: jax.Array, size: int, height: int, width: int) -> Window:
  """The windows for a network's outputs (Eq. 21–24).

  Args:
    parameters: [B, 5] g̃_X, g̃_Y, log σ², log δ̃, log γ. Zeros give a grid over the whole image.
    size: N, filters in each direction; at least 2.
    height: B of the equations.
    width: A of the equations.
  """
  x, y, log_variance, log_stride, log_intensity = jnp.moveaxis(parameters, -1, 0)
  return Window(
    center_x=(width + 1) / 2 * (x + 1),
    center_y=(height + 1) / 2 * (y + 1),
    stride=(max(height, width) - 1) / (size - 1) * jnp.exp(log_stride),
    log_variance=log_variance,
    log_intensity=log_intensity,
  )


def filter_bank(
  center: jax.Array, stride: jax.Array, log_variance: jax.Array, *, size: int, pixels: int
) -> jax.Array:
  """The filters of one direction (Eq. 19–20 and 25–26).

  Args:
    center: [B] g.
    stride: [B] δ.
    log_variance: [B] log σ².
    size: N.
    pixels: A or B, length of that side of the image.

  Returns:
    F [B, N, pixels]. A row sums to 1, to about 1e-4, if there is a pixel near the filter's mean,
    and to nearly 0 if the filter lies outside the image.
  """
  grid = jnp.arange(1, size + 1) - size / 2 - 0.5
  means = center[:, None] + stride[:, None] * grid[None]  # [B, N]
  distances = jnp.arange(1, pixels + 1)[None, None] - means[..., None]
  # Divide by σ before squaring: a filter that is far away or very narrow overflows to exp(−∞) = 0,
  # with gradient 0 rather than 0·∞.
  inverse_std = jnp.exp(-log_variance / 2)[:, None, None]
  filters = jnp.exp(-jnp.square(distances * inverse_std) / 2)
  return filters / (jnp.sum(filters, axis=-1, keepdims=True) + TOLERANCE)


def read(images: jax.Array, window: Window, size: int) -> jax.Array:
  """γ F_Y x F_Xᵀ (Eq. 27): images [B, H, W, C] → [B, N, N, C]."""
  rows, columns = _filter_banks(window, size, *images.shape[1:3])
  patches = _einsum('bny,byxc->bnxc', rows, images)
  patches = _einsum('bmx,bnxc->bnmc', columns, patches)
  return jnp.exp(window.log_intensity)[:, None, None, None] * patches


def write(patches: jax.Array, window: Window, height: int, width: int) -> jax.Array:
  """1/γ F_Yᵀ w F_X (Eq. 29): patches [B, N, N, C] → [B, H, W, C]."""
  rows, columns = _filter_banks(window, patches.shape[1], height, width)
  patches = jnp.exp(-window.log_intensity)[:, None, None, None] * patches
  images = _einsum('bmx,bnmc->bnxc', columns, patches)
  return _einsum('bny,bnxc->byxc', rows, images)


def _filter_banks(
  window: Window, size: int, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """F_Y [B, N, H] and F_X [B, N, W]."""
  bank = functools.partial(
    filter_bank, stride=window.stride, log_variance=window.log_variance, size=size
  )
  return bank(window.center_y, pixels=height), bank(window.center_x, pixels=width)


def _einsum(subscripts: str, *arrays: jax.Array) -> jax.Array:
  # Full float32, even where an accelerator would round the inputs: the products are small, and the
  # canvas sums many of them.
  return jnp.einsum(subscripts, *arrays, precision=jax.lax.Precision.HIGHEST)
