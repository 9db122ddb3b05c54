"""Benchmarks of whole runs: an epoch, and the start."""

import json

import pytest

from scripts.benchmark import steps, whole_runs


def test_epoch_is_measured_beside_its_steps():
  """The stopwatch takes the steps once more after each evaluation and changes nothing."""
  calls, done = [], []

  def train_step(state, indices):
    calls.append(indices)
    return state + 1, {}

  stopwatch = whole_runs._Stopwatch(
    compile_steps=lambda: (train_step, None),
    before_evaluation=lambda run, state: None,
    epoch_done=lambda run, state, results: done.append((state, results)),
  )
  step, _ = stopwatch.compile_steps()
  before_evaluation, epoch_done = stopwatch.before_evaluation(), stopwatch.epoch_done()
  state = 0
  for _ in range(2):
    for indices in (1, 2, 3):
      state, _ = step(state, indices)
    before_evaluation(None, state)
    epoch_done(None, state, {'test/error': 0.5})
  assert done == [(3, {'test/error': 0.5}), (6, {'test/error': 0.5})]
  assert calls == [1, 2, 3] * 4
  assert len(stopwatch.rounds) == 2
  for seconds in stopwatch.rounds:
    assert 0 <= seconds['evaluation'] <= seconds['epoch'] and seconds['steps'] >= 0


def test_startup_reports_a_run_that_fails(benchmark, capsys, tmp_path):
  with pytest.raises(SystemExit):
    benchmark('startup', '--rounds', 1, '--data_dir', tmp_path / 'nothing')
  assert 'error: the run failed: error: ' in capsys.readouterr().err


def test_startup_of_every_experiment(benchmark, capsys, monkeypatch, tmp_path):
  """With the filled cache after the empty one, in a folder of its own for each."""
  folders = []

  def first_step(experiment, args, folder, name):
    folders.append((experiment, folder))
    return 30.0 + len(folders) if name == '0' else 10.0

  monkeypatch.setattr(whole_runs, '_first_step', first_step)
  benchmark('startup', '--rounds', 2, '--json', tmp_path / 'startup.json')
  assert [experiment for experiment, _ in folders[::2]] == 2 * ['cifar', 'vae', 'draw', 'dqn']
  assert len({folder for _, folder in folders}) == len(folders) / 2 == 8
  said = capsys.readouterr().out
  assert said.startswith(f'{steps.machine()["cores"]} cores of ')
  assert 'configs/cifar.py:wn,scaled, cold cache: 35.0 s (31.0–39.0)' in said
  assert 'configs/dqn.py:breakout-wn,short, warm cache: 10.0 s (10.0–10.0)' in said
  assert len(json.loads((tmp_path / 'startup.json').read_text())['rounds']) == 2
