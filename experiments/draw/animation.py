"""Animated GIFs of how images are drawn, with outlines of the attention windows."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from experiments.draw.attention import Window

RED, BLUE = 254, 255  # of the palette; lower indices are grays
_COLORS = {RED: (220, 30, 30), BLUE: (30, 90, 220)}
_WHITE = 253
_GRAYS = 32  # a file of half the size of one with all of them
_GAP = 4  # pixels between images
_MAX_BORDER = 8  # pixels; a wider border would hide the image
_FRAME_MS = 80
_LAST_FRAME_MS = 2500


def enlarge(images: np.ndarray, scale: int) -> np.ndarray:
  """Images [T, B, H, W, 1] in [0, 1] → palette indices [T, B, scale·H, scale·W]; 1 is black."""
  steps = np.round((_GRAYS - 1) * (1 - images[..., 0]))
  grays = np.round(_WHITE / (_GRAYS - 1) * steps).astype(np.uint8)
  return grays.repeat(scale, axis=2).repeat(scale, axis=3)


def outline(frames: np.ndarray, windows: Window, size: int, scale: int, color: int) -> np.ndarray:
  """Returns a copy of `frames` with the outlines of `windows`.

  As in Figure 1 of Gregor et al. (2015), a square has the side (N − 1) δ of the grid of filters and
  a border as wide as their σ, up to a few pixels.

  Args:
    frames: [T, B, scale·H, scale·W] from `enlarge`.
    windows: [T, B] NumPy arrays.
    size: N.
    scale: of `frames`.
    color: palette index.
  """
  limit = 2 * max(frames.shape[2:])  # invisible beyond; larger values would overflow integers

  def pixels(x: np.ndarray) -> np.ndarray:
    return np.clip(scale * x, -limit, limit).round().astype(int)

  half = (size - 1) / 2 * windows.stride
  # Pixel a of the image, counted from 1, lies between a − 1 and a.
  left, right = (pixels(windows.center_x - 0.5 + side) for side in (-half, half))
  top, bottom = (pixels(windows.center_y - 0.5 + side) for side in (-half, half))
  border = np.clip(pixels(np.exp(windows.log_variance / 2)), 1, _MAX_BORDER)
  drawn = np.empty_like(frames)
  for place in np.ndindex(frames.shape[:2]):
    image = Image.fromarray(frames[place])
    corners = [int(edge[place]) for edge in (left, top, right, bottom)]
    ImageDraw.Draw(image).rectangle(corners, outline=color, width=int(border[place]))
    drawn[place] = np.asarray(image)
  return drawn


def save(path: Path, frames: np.ndarray, columns: int) -> None:
  """Writes a looping GIF.

  Args:
    path: of the file.
    frames: [T, B, H, W] palette indices; each frame shows its B images in a grid.
    columns: of the grid; a divisor of B.
  """
  padded = np.pad(frames, [(0, 0), (0, 0), (0, _GAP), (0, _GAP)], constant_values=_WHITE)
  steps, count, height, width = padded.shape
  grid = padded.reshape(steps, count // columns, columns, height, width).swapaxes(2, 3)
  pages = [Image.fromarray(page) for page in grid.reshape(steps, -1, columns * width)]
  grays = [(round(255 * i / _WHITE),) * 3 for i in range(_WHITE + 1)]
  palette = [channel for color in (*grays, *_COLORS.values()) for channel in color]
  for page in pages:
    page.putpalette(palette)
  durations = [_FRAME_MS] * (steps - 1) + [_LAST_FRAME_MS]
  pages[0].save(path, save_all=True, append_images=pages[1:], duration=durations, loop=0)
