"""3×3 convolutions for CPUs: Winograd's minimal filtering F(2×2, 3×3) (Lavin & Gray 2015, §4.1).

A 2×2 square of outputs needs a 4×4 tile d of the padded input. With the 3×3 kernel g,

  Y = Aᵀ [ Σ_channels (G g Gᵀ) ⊙ (Bᵀ d B) ] A,

so 16 products per tile replace 36. Over all tiles, each is a matrix product over the channels. On a
CPU the gain is lost if the transformed tiles, four times the size of the input, go through main
memory, so the batch is processed in chunks that fit in the cache.

The derivative (reverse mode only) is a pair of such convolutions: the gradient of the input
convolves dY with the flipped kernel; that of the kernel is Gᵀ [ Σ_tiles (Bᵀ d B) ⊗ (A dY Aᵀ) ] G.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Transforms of one dimension; Eq. 6–7 of Lavin & Gray.
_B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])

# With fewer channels the transforms cost more than the products save.
MIN_FEATURES = 64
# Tiles per chunk. Transformed, with 192 channels in float32, they take 16 MB.
CHUNK_TILES = 1280

Grid = Sequence[Sequence[jax.Array]]  # one array per position in a tile: 4×4, 3×3 or 2×2
Pads = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **kwargs: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated`, by F(2×2, 3×3) for 3×3 kernels and stride 1.

  F(2×2, 3×3) needs an input [B, H, W, C] and a kernel [3, 3, C, D] with C and D of at least
  `MIN_FEATURES`. Sums are in float32, the result [B, H', W', D] in the dtype of the input.
  """
  if not _is_covered(lhs, rhs, window_strides, kwargs):
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], (3, 3), (1, 1), padding)
  pads = tuple((int(before), int(after)) for before, after in padding)
  # The gradient of the input is padded by 2 − pad, which must not be negative.
  if min(_output_size(lhs, pads)) < 1 or not all(0 <= p <= 2 for pad in pads for p in pad):
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
  return _conv(lhs, rhs, pads)


def _is_covered(lhs: jax.Array, rhs: jax.Array, strides: Sequence[int], kwargs: Any) -> bool:
  ones = (None, (1, 1), [1, 1])
  return (
    lhs.ndim == 4
    and rhs.shape[:3] == (3, 3, lhs.shape[3])
    and min(rhs.shape[2:]) >= MIN_FEATURES
    and 0 not in lhs.shape
    and tuple(strides) == (1, 1)
    and lhs.dtype == rhs.dtype
    and lhs.dtype in (jnp.float32, jnp.bfloat16)
    and _is_channels_last(kwargs.get('dimension_numbers'), lhs.shape, rhs.shape)
    and kwargs.get('lhs_dilation') in ones
    and kwargs.get('rhs_dilation') in ones
    and kwargs.get('feature_group_count', 1) == 1
    and kwargs.get('batch_group_count', 1) == 1
    and all(kwargs.get(k) is None for k in ('precision', 'preferred_element_type', 'out_sharding'))
  )


def _is_channels_last(numbers: Any, lhs_shape: tuple[int, ...], rhs_shape: tuple[int, ...]) -> bool:
  channels_last = ('NHWC', 'HWIO', 'NHWC')
  numbers = lax.conv_dimension_numbers(lhs_shape, rhs_shape, numbers)
  return numbers == lax.conv_dimension_numbers(lhs_shape, rhs_shape, channels_last)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
  """[B, H, W, C], [3, 3, C, D] → [B, height, width, D]."""
  height, width = _output_size(x, pads)
  transformed = _transform_kernel(kernel)

  def chunk(_, x: jax.Array):
    padded = _pad(x, pads, 2 * _half(height) + 2, 2 * _half(width) + 2)
    return None, _conv_padded(padded, transformed, height, width).astype(x.dtype)

  return _over_chunks(chunk, None, x.shape[0], _half(height) * _half(width), x)[1]


def _conv_fwd(x: jax.Array, kernel: jax.Array, pads: Pads):
  return _conv(x, kernel, pads), (x, kernel)


def _conv_bwd(pads: Pads, residuals: tuple[jax.Array, jax.Array], dy: jax.Array):
  x, kernel = residuals
  batch, x_height, x_width, _ = x.shape
  rows, columns = _half(dy.shape[1]), _half(dy.shape[2])
  (top, bottom), (left, right) = ((2 - before, 2 - after) for before, after in pads)
  turned = _transform_kernel(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))

  def chunk(d_transformed: Grid, chunks: tuple[jax.Array, jax.Array]):
    x, dy = chunks
    x_padded = _pad(x, pads, 2 * rows + 2, 2 * columns + 2)
    # Both gradients share one padded dY, as XLA is slow at slicing the chunk out of dY twice.
    dy_padded = _pad(
      dy,
      ((top, bottom), (left, right)),
      max(2 * _half(x_height) + 2, top + 2 * rows),
      max(2 * _half(x_width) + 2, left + 2 * columns),
    )
    inputs = _transform(_B_T, _cut(x_padded, 4, rows, columns))
    outputs = _transform(_A_T.T, _cut(dy_padded, 2, rows, columns, top, left))
    d_transformed = _each(
      lambda total, v, m: total + _matmul(v.T, m), d_transformed, inputs, outputs
    )
    return d_transformed, _conv_padded(dy_padded, turned, x_height, x_width).astype(x.dtype)

  zeros = [[jnp.zeros(kernel.shape[2:], jnp.float32)] * 4] * 4
  d_transformed, dx = _over_chunks(chunk, zeros, batch, rows * columns, x, dy)
  d_kernel = _transform(_G.T, d_transformed)
  return dx, jnp.stack([jnp.stack(row) for row in d_kernel]).astype(kernel.dtype)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _conv_padded(x: jax.Array, transformed_kernel: Grid, height: int, width: int) -> jax.Array:
  """Convolves padded float32 inputs [n, H, W, C] → [n, height, width, D]."""
  rows, columns = _half(height), _half(width)
  products = _each(_matmul, _transform(_B_T, _cut(x, 4, rows, columns)), transformed_kernel)
  squares = _each(lambda y: y.reshape(-1, rows, columns, y.shape[-1]), _transform(_A_T, products))
  y = jnp.stack([jnp.stack(row, axis=3) for row in squares], axis=2)
  return y.reshape(y.shape[0], 2 * rows, 2 * columns, -1)[:, :height, :width]


def _cut(x: jax.Array, size: int, rows: int, columns: int, top: int = 0, left: int = 0) -> Grid:
  """Cuts square tiles, one every two pixels: size×size grid of [n·rows·columns, C]."""

  def pixels(i: int, j: int) -> jax.Array:
    vertical = slice(top + i, top + i + 2 * rows - 1, 2)
    horizontal = slice(left + j, left + j + 2 * columns - 1, 2)
    return x[:, vertical, horizontal].reshape(-1, x.shape[-1])

  return [[pixels(i, j) for j in range(size)] for i in range(size)]


def _pad(x: jax.Array, pads: Pads, height: int, width: int) -> jax.Array:
  """Pads [n, H, W, C] above and left by `pads`, below and right up to height and width."""
  (top, _), (left, _) = pads
  bottom, right = height - top - x.shape[1], width - left - x.shape[2]
  return jnp.pad(x.astype(jnp.float32), ((0, 0), (top, bottom), (left, right), (0, 0)))


def _transform_kernel(kernel: jax.Array) -> Grid:
  """G g Gᵀ: [3, 3, C, D] → 4×4 grid of [C, D]."""
  return _transform(_G, [[kernel[i, j].astype(jnp.float32) for j in range(3)] for i in range(3)])


def _over_chunks(body: Callable, carry: Any, batch: int, tiles: int, *arrays: jax.Array) -> Any:
  """Scans `body` over chunks of the batch; returns (last carry, results [B, ...])."""
  size = max(1, min(batch, CHUNK_TILES // tiles))
  while batch % size:
    size -= 1
  chunks = tuple(a.reshape(-1, size, *a.shape[1:]) for a in arrays)
  carry, results = lax.scan(body, carry, chunks if len(chunks) > 1 else chunks[0])
  return carry, results.reshape(batch, *results.shape[2:])


def _transform(matrix: np.ndarray, grid: Grid) -> Grid:
  """matrix · grid · matrixᵀ."""
  columns = [_combine(matrix, column) for column in zip(*grid)]
  return [_combine(matrix, row) for row in zip(*columns)]


def _combine(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
  """matrix · arrays, without the products by 0 and ±1, which XLA would compute."""
  sums = []
  for row in matrix:
    terms = [(weight, array) for weight, array in zip(row, arrays) if weight]
    total = None
    for weight, array in terms:
      term = array * abs(float(weight)) if abs(weight) != 1 else array
      if total is None:
        total = -term if weight < 0 else term
      else:
        total = total - term if weight < 0 else total + term
    sums.append(total)
  return sums


def _each(function: Callable, *grids: Grid) -> Grid:
  return [[function(*arrays) for arrays in zip(*rows)] for rows in zip(*grids)]


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _output_size(x: jax.Array, pads: Pads) -> tuple[int, int]:
  height, width = (n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], pads))
  return height, width


def _half(n: int) -> int:
  """Number of tiles that cover n outputs."""
  return -(-n // 2)
