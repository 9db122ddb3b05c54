"""A user's mistake gets one line, exit code 2, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import config_dict

from configs import cifar
from experiments.cifar import train as train_lib
from experiments.cifar.validate import validate
from experiments.training import data
from experiments.training import run as run_lib
from experiments.training.errors import UserError, one_line_errors

ROOT = Path(__file__).parents[3]
GOOD = '--config=configs/cifar.py:wn,tiny'


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.cifar', *arguments],
    capture_output=True, text=True, cwd=ROOT,
  )  # fmt: skip


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], '--config is missing'),
    (['--config=configs/cifr.py:wn'], 'no configuration file configs/cifr.py'),
    (['--config=configs/cifar.py:weightnorm,tiny'], "unknown variant 'weightnorm'; choose one of"),
    (['--config=configs/cifar.py:wn,tini'], "Did you mean 'tiny'?"),
    ([GOOD, '--config.learnin_rate=1'], 'Did you mean "learning_rate"'),
    ([GOOD, '--config.width=wide'], '--config.width=wide'),
    ([GOOD, '--config.width.x=3'], 'error: '),
    ([GOOD, '--config.protocol=paper'], '--config.protocol cannot be overridden'),
    ([GOOD, '--config.width=-3'], 'config.width=-3 must be 1 or more'),
    ([GOOD, '--wrkdir=x'], 'Did you mean: workdir'),
    ([GOOD, 'epochs=3'], "unexpected argument 'epochs=3'"),
    (['--config=configs/cifar.py:wn', '--data_dir=/nowhere'], 'no data folder /nowhere'),
    ([GOOD, '--workdir=/dev/null/run'], 'Not a directory: /dev/null/run'),
  ],
)
def test_command_line(arguments, message, tmp_path):
  if not any('workdir' in argument for argument in arguments):
    arguments = [*arguments, f'--workdir={tmp_path / "run"}']
  result = run(*arguments)
  assert result.returncode == 2, result.stderr
  (line,) = result.stderr.splitlines()
  assert line.startswith('error: ') and message in line
  assert not list(tmp_path.iterdir())


def config(spec='wn,tiny', **changes):
  config = cifar.get_config(spec)
  config.update(changes)
  return config_dict.FrozenConfigDict(config)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'width': 0}, 'config.width=0 must be 1 or more'),
    ({'epochs': 0}, 'config.epochs=0'),
    ({'batch_size': -1}, 'config.batch_size=-1'),
    ({'log_every': 0}, 'config.log_every=0'),
    ({'learning_rate': 0.0}, 'config.learning_rate=0.0 must be above 0'),
    ({'dropout_rate': 1.0}, 'config.dropout_rate=1.0 must be at least 0 and below 1'),
    ({'b1': -0.1}, 'config.b1=-0.1'),
    ({'noise_std': -1.0}, 'config.noise_std=-1.0 must not be negative'),
    ({'seed': -1}, 'config.seed=-1'),
    ({'seed': 2**32}, 'config.seed=4294967296 must be at least 0 and below 2**32'),
    ({'variant': 'weight_norm'}, 'config.variant=weight_norm: choose one of'),
    ({'dtype': 'float16'}, 'config.dtype=float16: choose one of float32, bfloat16'),
    ({'dataset': 'imagenet'}, 'config.dataset=imagenet: choose one of'),
    ({'batch_size': 301}, 'config.batch_size=301 is more than the 300 training images'),
    ({'init_examples': 301}, 'config.init_examples=301 is more than the 300'),
    ({'train_examples': 2000}, 'digits has 1297 training images'),
    ({'upscale': 1}, 'images of digits are then 8 pixels wide'),
    ({'variant': 'bn', 'batch_size': 1}, 'batch normalisation needs 2 or more'),
  ],
)
def test_config_values(changes, message, tmp_path):
  with pytest.raises(UserError) as error:
    train_lib.train(config(**changes), tmp_path / 'run')
  assert message in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_good_configs_pass():
  validate(config(), data.load('digits'))


def test_nan_and_infinity_are_refused():
  for value in (float('nan'), float('inf')):
    with pytest.raises(UserError, match=r'config\.learning_rate'):
      validate(config(learning_rate=value))


def files(directory):
  return {p: p.stat().st_mtime_ns for p in directory.rglob('*') if p.is_file()}


def test_run_directory_of_another_config_is_refused(tmp_path):
  run_lib.create_workdir(tmp_path, config(epochs=1))
  before = files(tmp_path)
  with pytest.raises(
    UserError, match=r'another config: epochs \(1 there, 2 now\), width \(4 there'
  ):
    train_lib.train(config(epochs=2, width=5), tmp_path)
  assert files(tmp_path) == before


def test_directory_that_holds_no_run_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('')
  with pytest.raises(UserError, match='not empty and holds no run'):
    train_lib.train(config(), tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize('content', [b'{"width": ', b'[1]', b'\xff\xfe'])
def test_damaged_config_of_a_run_is_refused(tmp_path, content):
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(UserError, match=r'config\.json is damaged'):
    train_lib.train(config(), tmp_path)


def test_second_process_in_a_run_is_refused(tmp_path):
  with run_lib.locked(tmp_path):
    with pytest.raises(UserError, match='another process is training in'):
      train_lib.train(config(), tmp_path)
  with run_lib.locked(tmp_path):  # free again
    pass


def test_help_names_the_flags_and_the_variants():
  result = run('--help')
  assert result.returncode == 0
  assert '--workdir' in result.stdout and 'wn_mean_bn' in result.stdout


def test_full_disk_is_one_line(capsys):
  with pytest.raises(SystemExit) as exit_, one_line_errors():
    raise OSError(28, 'No space left on device', 'runs/metrics.jsonl')
  assert exit_.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: No space left on device: runs/metrics.jsonl')


def test_errors_of_the_program_keep_their_traceback():
  with pytest.raises(ZeroDivisionError), one_line_errors():
    _ = 1 / 0


def test_interruption_is_one_line(capsys, monkeypatch):
  codes = []
  monkeypatch.setattr(os, '_exit', codes.append)
  with one_line_errors():
    raise KeyboardInterrupt
  assert codes == [130]
  assert capsys.readouterr().err == 'stopped by SIGINT; the same command goes on.\n'
