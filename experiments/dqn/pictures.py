"""Pictures of a finished run: the score against frames, and an episode to watch."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from ml_collections import config_dict
from PIL import Image

from experiments.dqn import evaluation
from experiments.dqn.environments import Purpose, seeds
from experiments.runtime.metrics import Row, read_rows

_EPISODE_FRAMES = 18_000  # five minutes; without a limit an episode may never end
_GIF_BYTES = 3_000_000
_GIF_MILLISECONDS = 40  # per frame; browsers slow down frames of 20 ms or less


def write(workdir: Path, config: config_dict.FrozenConfigDict, policy: evaluation.Policy) -> None:
  """Writes `score.png` and `episode.gif` into `workdir`; `policy` plays the episode."""
  title = '/'.join(workdir.parts[-2:])
  score(read_rows(workdir / 'metrics.jsonl'), title).savefig(workdir / 'score.png', dpi=150)
  seed = seeds(config.seed, 0, Purpose.PICTURE, count=1)
  frames, _ = evaluation.record(policy, config, seed, max_frames=_EPISODE_FRAMES)
  (workdir / 'episode.gif').write_bytes(gif(frames))


def score(rows: list[Row], title: str) -> Figure:
  """Plots evaluation scores, with standard errors, and training returns against frames.

  Training episodes are played with more random actions.
  """
  figure = Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  training = [row for row in rows if 'train/episode_return' in row]
  axes.plot(
    [row['frames'] for row in training],
    [row['train/episode_return'] for row in training],
    lw=0.7,
    alpha=0.7,
    label='training, ε-greedy as it learns',
  )
  evaluations = [row for row in rows if 'eval/score' in row]
  axes.errorbar(
    [row['frames'] for row in evaluations],
    [row['eval/score'] for row in evaluations],
    [row['eval/standard_error'] for row in evaluations],
    marker='.',
    capsize=2,
    label='evaluation ± standard error',
  )
  axes.set(xlabel='frames', ylabel='score', title=title, xlim=(0, None))
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def gif(frames: np.ndarray, max_bytes: int = _GIF_BYTES) -> bytes:
  """A GIF of frames [T, H, W, 3], 15 per second of the game, played about 1.7 times as fast.

  Drops frames evenly until the GIF has at most `max_bytes`.
  """
  for stride in (2**i for i in range(len(frames).bit_length())):
    images = [
      Image.fromarray(frame).convert('P', palette=Image.Palette.ADAPTIVE, colors=64)
      for frame in frames[::stride]
    ]
    buffer = io.BytesIO()
    images[0].save(
      buffer,
      'GIF',
      save_all=True,
      append_images=images[1:],
      duration=stride * _GIF_MILLISECONDS,
      loop=0,
    )
    if buffer.tell() <= max_bytes:
      break
  return buffer.getvalue()
