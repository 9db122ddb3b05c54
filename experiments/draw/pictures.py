"""Pictures of a finished run: bound, KL per glimpse, samples, and how images are drawn."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from experiments.draw import animation
from experiments.draw.model import Draw
from experiments.runtime.metrics import read_rows
from experiments.training import pictures

_SAMPLES = 64
_DRAWN_COLUMNS = 4  # and rows, of the animated samples
_REBUILT = 10  # test images
_SIDE = 56  # approximate side of an image in an animation, in pixels; 64 frames take 0.6 MB


def write(workdir: Path, model: Draw, test_x: jax.Array, key: jax.Array) -> None:
  """Writes the pictures to `workdir`.

  They are `bound.png`, `samples.png`, `kl_per_glimpse.png`, `drawing.gif` (samples, with a frame
  per glimpse) and `reconstruction.gif` (test images, with their reconstructions below). Write
  windows are outlined in red, read windows in blue.

  Args:
    workdir: of the run.
    model: for evaluation.
    test_x: [N, H, W, C] binary test images.
    key: of samples and reconstructions.
  """
  pictures.bound(workdir).savefig(workdir / 'bound.png', dpi=150)
  kl_per_glimpse(workdir).savefig(workdir / 'kl_per_glimpse.png', dpi=150)
  samples = jax.device_get(nnx.jit(lambda model: model.sample(key, _SAMPLES))(model))
  pictures.save_grid(workdir / 'samples.png', samples.probabilities[-1], 8)

  scale = max(1, _SIDE // max(test_x.shape[1:3]))
  frames = animation.enlarge(samples.probabilities[:, : _DRAWN_COLUMNS**2], scale)
  if samples.written is not None:
    drawn = jax.tree.map(lambda array: array[:, : _DRAWN_COLUMNS**2], samples.written)
    frames = animation.outline(frames, drawn, model.writer.size, scale, animation.RED)
  animation.save(workdir / 'drawing.gif', frames, _DRAWN_COLUMNS)

  x = test_x[:_REBUILT]
  rebuilt = jax.device_get(nnx.jit(lambda model: model.reconstruct(x, key))(model))
  above = animation.enlarge(np.broadcast_to(x, rebuilt.probabilities.shape), scale)
  below = animation.enlarge(rebuilt.probabilities, scale)
  if rebuilt.written is not None:
    above = animation.outline(above, rebuilt.read, model.reader.size, scale, animation.BLUE)
    below = animation.outline(below, rebuilt.written, model.writer.size, scale, animation.RED)
  frames = np.concatenate([above, below], axis=1)
  animation.save(workdir / 'reconstruction.gif', frames, _REBUILT)


def kl_per_glimpse(workdir: Path) -> Figure:
  """KL of each glimpse on the test set, against epoch."""
  rows = [row for row in read_rows(workdir / 'metrics.jsonl') if 'test/kl_0' in row]
  glimpses = sum(name.startswith('test/kl_') for name in rows[0])
  values = [[row[f'test/kl_{t}'] for row in rows] for t in range(glimpses)]
  figure = Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  epochs, edge = [row['epoch'] for row in rows], glimpses + 0.5
  extent = (epochs[0] - 0.5, epochs[-1] + 0.5, edge, 0.5)
  image = axes.imshow(values, aspect='auto', cmap='viridis', extent=extent, interpolation='none')
  axes.set(xlabel='epoch', ylabel='glimpse', title='/'.join(workdir.parts[-2:]))
  axes.locator_params(integer=True)
  figure.colorbar(image, label='KL on the test set (nats)')
  return figure
