"""A run made longer, one of another length or version, and what a run says at its start."""

import functools
import json
import re

import pytest

from configs import cifar, draw, vae
from experiments.cifar.train import train as train_cifar
from experiments.draw.train import train as train_draw
from experiments.runtime import settings
from experiments.runtime import workdir as workdir_lib
from experiments.runtime.errors import UserError
from experiments.runtime.metrics import read_rows
from tests import configurations, loops

draw_config = functools.partial(configurations.frozen, draw, 'wn,tiny')
DATA = {'name': 'digits', 'digest': 'a' * 64}


def rows(workdir):
  return [
    {name: value for name, value in row.items() if name != 'seconds'}
    for row in read_rows(workdir / 'metrics.jsonl')
  ]


def test_a_finished_run_that_is_made_longer_is_the_long_one(tmp_path):
  for epochs in (1, 3):
    train_draw(draw_config({'epochs': epochs}), tmp_path / 'longer')
    summary = json.loads((tmp_path / 'longer' / 'summary.json').read_text())
    assert summary['config']['epochs'] == epochs and summary['final']['epoch'] == epochs
  train_draw(draw_config({'epochs': 3}), tmp_path / 'long')
  assert rows(tmp_path / 'longer') == rows(tmp_path / 'long')


def test_while_it_is_made_longer_a_run_is_not_finished(tmp_path):
  old, new = draw_config({'epochs': 1}), draw_config({'epochs': 2})
  workdir_lib.create_workdir(tmp_path, old, DATA)
  (tmp_path / 'summary.json').write_text(json.dumps({'config': {'epochs': 1}}))
  assert workdir_lib.is_finished(tmp_path, old) and not workdir_lib.is_finished(tmp_path, new)
  with workdir_lib.prepared(tmp_path, new, DATA):
    assert not (tmp_path / 'summary.json').exists()
  assert json.loads((tmp_path / 'config.json').read_text())['epochs'] == 2
  message = re.escape('epochs (2 there, 1 now); they can only be raised')
  with pytest.raises(UserError, match=message):
    workdir_lib.check_workdir(tmp_path, old)


def test_what_another_process_did_meanwhile_is_seen_behind_the_lock(tmp_path):
  """It has raised the epochs of the run, after the first check."""
  workdir_lib.create_workdir(tmp_path, draw_config({'epochs': 9}), DATA)
  with pytest.raises(UserError, match=r'epochs \(9 there, 2 now\)'):
    with workdir_lib.prepared(tmp_path, draw_config({'epochs': 2}), DATA):
      pass
  assert json.loads((tmp_path / 'config.json').read_text())['epochs'] == 9


def test_a_run_with_a_schedule_keeps_its_length(tmp_path):
  config = functools.partial(configurations.frozen, cifar, 'wn,tiny')
  train_cifar(config({'epochs': 1}), tmp_path)
  with pytest.raises(UserError, match=r'epochs \(1 there, 2 now\). It cannot be changed: its lea'):
    train_cifar(config({'epochs': 2}), tmp_path)


def test_another_config_is_named_by_its_keys(tmp_path):
  workdir_lib.create_workdir(tmp_path, draw_config(), DATA)
  other = draw_config({'optimizer.learning_rate': 0.5, 'epochs': 9})
  with pytest.raises(UserError, match=r'epochs \(3 there, 9 now\), optimizer.learning_rate \(0.02'):
    workdir_lib.check_workdir(tmp_path, other)


def test_a_run_is_resumed_with_other_logging(tmp_path, monkeypatch, capsys):
  loops.stop_at(4, monkeypatch)
  with pytest.raises(loops.Stopped):
    train_draw(draw_config({'run.checkpoint_every': 2}), tmp_path)
  monkeypatch.undo()
  changes = {'run.diagnostics': True, 'run.log_every': 1, 'run.checkpoint_every': 3}
  train_draw(draw_config(changes), tmp_path)
  assert 'resuming at step 2' in capsys.readouterr().out
  assert sum(any(name.startswith('diagnostics/') for name in row) for row in rows(tmp_path)) > 2
  assert json.loads((tmp_path / 'config.json').read_text())['run']['diagnostics'] is True
  before = rows(tmp_path)
  train_draw(draw_config(), tmp_path)
  assert 'is finished' in (said := capsys.readouterr().out)
  assert 'It was trained with run.diagnostics=True, not False.' in said
  assert rows(tmp_path) == before and (tmp_path / 'summary.json').exists()


def test_a_run_from_before_a_key_is_one_with_the_value_it_had_in_effect(tmp_path):
  workdir_lib.create_workdir(tmp_path, draw_config(), DATA)
  path = tmp_path / 'config.json'
  old = json.loads(path.read_text())
  del old['run']['steps_per_call']
  del old['model']['initial_g']
  path.write_text(json.dumps(old))
  workdir_lib.check_workdir(tmp_path, draw_config({'model.initial_g': 0.0}))
  with pytest.raises(UserError, match=r'model.initial_g \(0.0 there, 1.0 now\)'):
    workdir_lib.check_workdir(tmp_path, draw_config())
  with pytest.raises(UserError, match=r'run.steps_per_call \(1 there, 2 now\)'):
    workdir_lib.check_workdir(tmp_path, draw_config({'run.steps_per_call': 2}))


def test_a_run_of_an_older_version_is_refused_in_one_line(tmp_path):
  config = {'experiment': 'draw', 'variant': 'wn', 'protocol': 'tiny', 'seed': 0}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match='holds a run of an older version'):
    workdir_lib.check_workdir(tmp_path, draw_config())


def test_the_start_of_a_run_shows_its_protocol():
  text = settings.describe(vae.get_config('mnist-iaf-wn'))
  assert text.startswith('vae mnist-iaf-wn, protocol paper\n')
  for value in ('learning_rate=0.002', 'ema_epochs=10.0', 'epochs=300', 'maps=[16, 32, 32]'):
    assert value in text
  assert 'log_every' not in text  # it changes no result
