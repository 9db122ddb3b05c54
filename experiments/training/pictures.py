"""Pictures of generative models."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.runtime.metrics import read_rows


def bound(workdir: Path) -> Figure:
  """The bound on −log p(x) against epoch, on the test set and on the training minibatches."""
  rows = read_rows(workdir / 'metrics.jsonl')
  figure = Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  for name in ('train/nll_bound', 'test/nll_bound'):
    points = [(row['epoch'], row[name]) for row in rows if name in row]
    axes.plot(*zip(*points), label=name.split('/')[0], lw=1)
  title = '/'.join(workdir.parts[-2:])
  axes.set(xlabel='epoch', ylabel='bound on −log p(x) (nats)', title=title)
  last = points[-1][1]
  axes.set_ylim(0.9 * last, 1.5 * last)  # the first steps are far above
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def save_grid(path: Path, images: np.ndarray, columns: int, *, zoom: int = 2, gap: int = 2) -> None:
  """Writes a grid of images [N, H, W, C] in [0, 1] as a PNG; with C = 1, 0 is white.

  Args:
    path: of the file.
    images: C is 1 or 3.
    columns: images per row.
    zoom: each pixel becomes zoom × zoom pixels.
    gap: white pixels between images.
  """
  images = 1 - images if images.shape[-1] == 1 else images
  images = np.repeat(np.repeat(images, zoom, axis=1), zoom, axis=2)
  rows = -(-len(images) // columns)
  padding = ((0, rows * columns - len(images)), (gap, 0), (gap, 0), (0, 0))
  images = np.pad(images, padding, constant_values=1.0)
  _, height, width, channels = images.shape
  cells = images.reshape(rows, columns, height, width, channels)
  page = cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
  pixels = np.round(255 * np.clip(page, 0, 1)).astype(np.uint8)
  Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(path, optimize=True)
