"""The attention of DRAW: an N×N grid of Gaussian filters on an image (Gregor et al. 2015, §3.2).

Pixels are counted from 1, and a column or row of the image is a position a = 1 … A, as in the
paper's equations: so g̃ = 0 is the centre of the image.
"""

import dataclasses

import jax
import jax.numpy as jnp

PARAMETERS = 5  # numbers that make a window
# Added to the sum of a filter before it is divided by it, as in the public implementation: a filter
# far outside the image is 0 and has finite gradients.
TOLERANCE = 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Window:
  """One window for each image of a batch; every attribute is [B], or [T, B] over glimpses.

  Attributes:
    center_x: g_X, column of the grid's centre.
    center_y: g_Y, row of the grid's centre.
    stride: δ, pixels between neighbouring filters.
    log_variance: log σ² of the filters, in pixels².
    log_intensity: log γ.
  """

  center_x: jax.Array
  center_y: jax.Array
  stride: jax.Array
  log_variance: jax.Array
  log_intensity: jax.Array


def make_window(parameters: jax.Array, size: int, height: int, width: int) -> Window:
  """The window that a network asks for (Eq. 21–24).

  Args:
    parameters: [B, 5] g̃_X, g̃_Y, log σ², log δ̃, log γ. Zeros ask for a grid over the whole image.
    size: N, filters in each direction, 2 or more.
    height: B of the equations, rows of the image.
    width: A, columns of the image.
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
    F [B, N, pixels]. A row sums to 1, less a part in 10⁴ or so, as long as its filter has a pixel
    near its mean, and to nearly 0 outside the image.
  """
  grid = jnp.arange(1, size + 1) - size / 2 - 0.5
  means = center[:, None] + stride[:, None] * grid[None]  # [B, N]
  distances = jnp.arange(1, pixels + 1)[None, None] - means[..., None]
  # Divided by σ before it is squared: a filter that is far away or very narrow overflows to
  # exp(−∞) = 0, and its gradient is 0 rather than 0·∞.
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
  bank = lambda center, pixels: filter_bank(
    center, window.stride, window.log_variance, size=size, pixels=pixels
  )
  return bank(window.center_y, height), bank(window.center_x, width)


def _einsum(subscripts: str, *arrays: jax.Array) -> jax.Array:
  # Full float32 also where an accelerator would round its inputs: these products are small, and the
  # canvas sums many of them.
  return jnp.einsum(subscripts, *arrays, precision=jax.lax.Precision.HIGHEST)
