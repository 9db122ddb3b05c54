"""Keys that change nothing with some values of others."""

import functools
import importlib
from pathlib import Path

import pytest

from experiments.runtime import settings
from experiments.runtime.metrics import read_rows
from tests import configurations
from tests.commands import run_here

ROOT = Path(__file__).parents[3]

# Experiment, SPEC and overrides of a run, and values of all keys that should change nothing in it.
IDLE = [
  ('cifar', 'plain', {}, {'model.bn_momentum': 0.5, 'model.bn_eps': 0.1, 'data.zca_eps': 1.0}),
  ('cifar', 'bn', {}, {'init.scale': 3.0, 'data.zca_eps': 1.0}),
  ('cifar', 'mean_bn', {}, {'model.bn_eps': 0.1, 'data.zca_eps': 1.0}),
  (
    'cifar',
    'plain_released',
    {},
    {
      'model.bn_momentum': 0.5,
      'model.bn_eps': 0.1,
      'model.init_std': 1.0,
      'data.zca_eps': 1.0,
    },
  ),
  ('draw', 'plain', {}, {'model.initial_g': 2.0}),
  ('draw', 'wn,noattention', {}, {'model.read_window': 3, 'model.write_window': 4}),
  ('dqn', 'breakout-wn', {}, {'optimizer.rmsprop_decay': 0.1, 'optimizer.rmsprop_eps': 1.0}),
  (
    'dqn',
    'breakout-wn',
    {'optimizer.name': 'rmsprop'},
    {'optimizer.b1': 0.1, 'optimizer.b2': 0.1, 'optimizer.eps': 1.0},
  ),
  (
    'vae',
    'digits-diag-plain',
    {},
    {
      'layers.log_scale': 3.0,
      'init.flow_scale': 2.0,
      'model.flow_steps': 3,
      'model.flow_width': 9,
      'model.flow_depth': 2,
    },
  ),
]
# With other variants, such values do change something.
USED = [
  ('cifar', 'plain', {'init.scale': 3.0}),
  ('cifar', 'bn', {'model.bn_eps': 0.1}),
  ('cifar', 'bn', {'model.bn_momentum': 0.5}),
  ('cifar', 'mean_bn', {'model.bn_momentum': 0.5}),
  ('draw', 'wn,noattention', {'model.initial_g': 2.0}),
  ('draw', 'plain', {'model.read_window': 3}),
  ('dqn', 'breakout-wn', {'optimizer.b1': 0.1}),
]
SHORT = {
  'cifar': {'epochs': 1, 'data.train_examples': 100, 'init.examples': 50},
  'draw': {'epochs': 1, 'data.train_examples': 100},
  'dqn': {'epochs': 1},
  'vae': {'epochs': 1, 'data.train_examples': 100, 'init.examples': 50},
}


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  """Function (experiment, SPEC, changes) → the rows of a short run, without times."""

  @functools.cache
  def run(experiment, spec, changes):
    config = frozen(experiment, spec, dict(changes))
    workdir = tmp_path_factory.mktemp('run')
    importlib.import_module(f'experiments.{experiment}.train').train(config, workdir)
    found = read_rows(workdir / 'metrics.jsonl')
    return [{name: row[name] for name in row if 'second' not in name} for row in found]

  return lambda experiment, spec, changes: run(experiment, spec, tuple(changes.items()))


def frozen(experiment, spec, changes):
  module = settings.CONFIGS[experiment]
  return configurations.frozen(module, f'{spec},tiny', SHORT[experiment] | changes)


@pytest.mark.parametrize('experiment, spec, changes, idle', IDLE)
def test_unused_keys_change_nothing(experiment, spec, changes, idle, rows):
  config = frozen(experiment, spec, changes)
  assert settings.unused(config).keys() == idle.keys()
  plain = settings.effective(config, ())
  assert plain == settings.effective(frozen(experiment, spec, changes | idle), ())
  assert rows(experiment, spec, changes | idle) == rows(experiment, spec, changes)


@pytest.mark.parametrize('experiment, spec, changes', USED)
def test_keys_that_are_used_change_something(experiment, spec, changes, rows):
  assert not settings.unused(frozen(experiment, spec, changes)).keys() & changes.keys()
  assert rows(experiment, spec, changes) != rows(experiment, spec, {})


def test_every_rule_is_tested():
  tested = set()
  for experiment, spec, changes, _ in IDLE:
    flat = settings.flatten(frozen(experiment, spec, changes))
    for rule in settings.UNUSED[experiment]:
      key, values, _ = rule
      if flat[key] in values:
        tested.add((experiment, rule))
  assert tested == {(name, rule) for name, rules in settings.UNUSED.items() for rule in rules}


def test_an_override_that_changes_nothing_is_named(tmp_path, monkeypatch, capfd, caplog):
  monkeypatch.chdir(ROOT)
  arguments = ['--config=configs/draw.py:plain,tiny', f'--workdir={tmp_path / "run"}']
  arguments += ['--config.model.initial_g=2', '--config.epochs=1', '--config.batch_size=0']
  code, err = run_here('experiments.draw', arguments, monkeypatch, capfd, caplog)
  assert code == 2
  warning, error = err.splitlines()
  assert warning == (
    'warning: --config.model.initial_g changes nothing with variant.parameterization=plain.'
  )
  assert error.startswith('error: config.batch_size=0')
