"""Pictures that generative models share."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.training.metrics import read_rows


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


def grid(images: np.ndarray, columns: int) -> Figure:
  """Images [N, H, W, C] in [0, 1], `columns` in a row."""
  rows = -(-len(images) // columns)
  figure = Figure(figsize=(0.6 * columns, 0.6 * rows))
  figure.subplots_adjust(0, 0, 1, 1, 0.05, 0.05)
  for axes in figure.subplots(rows, columns, squeeze=False).flat:
    axes.axis('off')
  for axes, image in zip(figure.axes, images):
    axes.imshow(image.squeeze(), cmap='gray_r', vmin=0, vmax=1)
  return figure
