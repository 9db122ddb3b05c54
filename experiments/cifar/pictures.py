"""Pictures of a finished run: learning curve, confusion matrix, first-layer filters."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import wn
from experiments.cifar.model import ConvNet
from experiments.runtime.metrics import read_rows


def write(
  workdir: Path, confusion: np.ndarray, class_names: tuple[str, ...], model: ConvNet
) -> None:
  """Writes `learning_curve.png`, `confusion_matrix.png` and `filters.png` to `workdir`."""
  for name, figure in (
    ('learning_curve', learning_curve(workdir)),
    ('confusion_matrix', confusion_matrix(confusion, class_names)),
    ('filters', filters(model)),
  ):
    figure.savefig(workdir / f'{name}.png', dpi=150)


def learning_curve(workdir: Path) -> Figure:
  """Error against epoch, on the test set and on training minibatches."""
  rows = read_rows(workdir / 'metrics.jsonl')
  figure = Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  for name, style in (('train/error', {'lw': 0.8, 'alpha': 0.7}), ('test/error', {'marker': '.'})):
    points = [(row['epoch'], 100 * row[name]) for row in rows if name in row]
    axes.plot(*zip(*points), label=name.split('/')[0], **style)
  axes.set(xlabel='epoch', ylabel='error (%)', title='/'.join(workdir.parts[-2:]), ylim=(0, None))
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def confusion_matrix(confusion: np.ndarray, class_names: tuple[str, ...]) -> Figure:
  """Counts of test images: true classes as rows, predicted classes as columns."""
  size = len(class_names)
  figure = Figure(figsize=(6, 5.5), layout='constrained')
  axes = figure.subplots()
  # Colour by share of the true class, so that classes of different sizes compare.
  share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
  for i in range(size):
    for j in range(size):
      color = 'white' if share[i, j] > 0.5 else 'black'
      axes.text(j, i, int(confusion[i, j]), ha='center', va='center', fontsize=7, color=color)
  axes.set_xticks(range(size), class_names, rotation=45, ha='right')
  axes.set_yticks(range(size), class_names)
  axes.set(xlabel='predicted', ylabel='true')
  return figure


def filters(model: ConvNet) -> Figure:
  """The weights w of the first layer, each filter scaled to its own range."""
  kernel = np.asarray(wn.fold(model).block1[0].linear.kernel[...])  # [3, 3, C, F]
  images = np.moveaxis(kernel, -1, 0)  # [F, 3, 3, C]
  if images.shape[-1] not in (1, 3):
    images = images.mean(axis=-1, keepdims=True)
  low = images.min(axis=(1, 2, 3), keepdims=True)
  high = images.max(axis=(1, 2, 3), keepdims=True)
  images = (images - low) / np.maximum(high - low, 1e-12)
  columns = min(16, len(images))
  rows = -(-len(images) // columns)
  figure = Figure(figsize=(0.5 * columns, 0.5 * rows), layout='constrained')
  for axes in figure.subplots(rows, columns, squeeze=False).flat:
    axes.axis('off')
  for axes, image in zip(figure.axes, images):
    axes.imshow(image.squeeze(), cmap='gray', interpolation='nearest')
  return figure
