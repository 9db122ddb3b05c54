"""How the captions and legends of a report compare runs with the paper's protocol."""

import json
from types import SimpleNamespace

import pytest

from configs import cifar, draw
from experiments.runtime import settings
from scripts.report import protocol


def run_of(config, **changes):
  for key, value in changes.items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  config = json.loads(config.to_json())
  rate = config['optimizer']['learning_rate']
  return SimpleNamespace(config=config, variant=settings.variant(config), learning_rate=rate)


def older(run):
  """As it was before the config had `initial_g`."""
  del run.config['model']['initial_g']
  return run


@pytest.mark.parametrize(
  'runs, about, label',
  [
    ([run_of(cifar.get_config('wn'))], "The paper's protocol.", 'paper'),
    (
      [run_of(cifar.get_config('wn'), model__dtype='bfloat16')],
      'Unlike the paper: model.dtype=bfloat16 (paper: float32).',
      'paper',
    ),
    (
      [run_of(cifar.get_config('wn'), epochs=12)],
      'Unlike the paper: epochs=12 (paper: 200), and its schedules scaled to them.',
      'paper (full size)',
    ),
    (
      [run_of(draw.get_config(v), epochs=n) for v, n in (('wn', 20), ('plain', 8))],
      "The paper's protocol, its first 8 or 20 epochs.",
      'paper',
    ),
    (
      [run_of(draw.get_config('wn'), epochs=20, model__glimpses=8)],
      'Unlike the paper: model.glimpses=8 (paper: 64), epochs=20 (paper: 100).',
      'paper (full size)',
    ),
    (
      [run_of(draw.get_config('wn'), epochs=150)],
      'Unlike the paper: epochs=150 (paper: 100).',
      'paper (full size)',
    ),
    (
      [older(run_of(draw.get_config(v), epochs=20)) for v in ('wn', 'plain')],
      'Unlike the paper: model.initial_g=0.0 (paper: 1.0), epochs=20 (paper: 100).',
      'paper (full size)',
    ),
    ([older(run_of(draw.get_config('plain')))], "The paper's protocol.", 'paper'),
  ],
)
def test_captions_and_legends(runs, about, label):
  assert protocol.about(runs) == about
  assert protocol.paper_label(runs) == label
