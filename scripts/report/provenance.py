"""Describes the data of runs."""

from collections.abc import Sequence

from experiments.results import Run

_SPLITS = {'train': 'training images', 'test': 'test images'}


def sentence(runs: Sequence[Run]) -> str:
  """'Data: cifar10, 50,000 + 10,000 images, digest 1a2b3c4d5e6f, the published ones.'."""
  described = dict.fromkeys(_describe(run) for run in runs if run.data)
  return f'Data: {" and ".join(described)}.'


def _describe(run: Run) -> str:
  data = run.data
  text = data['name']
  if 'train_images' in data:  # not for games
    text += f', {data["train_images"]:,} + {data["test_images"]:,} images'
    if 0 < (used := run.config['data'].get('train_examples', 0)) < data['train_images']:
      text += f', trained on the first {used:,}'
  if 'digest' in data:
    text += f', digest {data["digest"][:12]}'
  if published := data.get('published'):
    changed = [name for split, name in _SPLITS.items() if not published[split]]
    text += f'; not all {" and ".join(changed)} are the published ones' if changed else ''
    text += '' if changed else ', the published ones'
  return text
