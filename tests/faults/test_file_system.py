"""Full disk, read-only directory, directory deleted in mid-run, two runs in one, clock set back.

Each time one line says what is wrong, and the run goes on when it is mended.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import config_dict

from configs import cifar
from experiments.cifar import train as cifar_train
from experiments.runtime import checkpoints
from experiments.runtime import workdir as run_lib
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import UserError, one_line_errors
from experiments.runtime.metrics import read_rows
from experiments.training import data

ROOT = Path(__file__).parents[2]


def error_line(function, capfd, code=2):
  """The one line that a command would print, whatever prints it; nothing else may be on stderr."""
  with pytest.raises(SystemExit) as exit_, one_line_errors():
    function()
  assert exit_.value.code == code
  (line,) = capfd.readouterr().err.splitlines()
  return line


def files(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('step, free', [(1, 0), (1, 16), (1, 40), (9, 4), (9, 40)])
def test_full_disk(step, free, disk, run, before, is_whole, capfd, caplog):
  """With so many KB left from the given step on."""
  run.workdir = disk[0] / 'run'
  filler = disk[0] / 'filler'

  def fill():
    usage = shutil.disk_usage(disk[0])
    filler.write_bytes(b'\0' * max(0, usage.free - 1024 * free))

  line = error_line(lambda: run(train_step=before(step, fill)), capfd)
  assert line.startswith(f'error: cannot write {run.workdir}/metrics.jsonl (No space left on') or (
    line.startswith(f'error: cannot write a checkpoint to {run.workdir}/checkpoints (No space left')
  )
  assert not caplog.records  # a command would print them too
  filler.unlink()
  is_whole(run, run())
  assert not capfd.readouterr().err  # no checkpoint was damaged


def test_rows_are_on_the_disk_before_their_checkpoint(run, monkeypatch):
  """Or a loss of power could leave a checkpoint that cannot be resumed."""
  calls = []
  fsync, save = os.fsync, Checkpoints.save

  def fsync_(descriptor):
    calls.append(os.readlink(f'/proc/self/fd/{descriptor}'))
    fsync(descriptor)

  def save_(self, *args, **kwargs):
    assert calls[-1] == str(run.workdir / 'metrics.jsonl')
    calls.clear()
    save(self, *args, **kwargs)

  monkeypatch.setattr(os, 'fsync', fsync_)
  monkeypatch.setattr(Checkpoints, 'save', save_)
  run()
  assert run.checkpoints == [10, 12, 15] and not calls


def test_full_disk_at_the_start(disk, run, is_whole, capfd):
  run.workdir = disk[0] / 'run'
  run.workdir.mkdir()
  filler = disk[0] / 'filler'
  filler.write_bytes(b'\0' * shutil.disk_usage(disk[0]).free)
  assert 'No space left on device' in error_line(run, capfd)
  filler.unlink()
  is_whole(run, run())


def test_read_only_directory(disk, tmp_path, capfd):
  config = cifar.get_config('wn,tiny')
  config = config_dict.FrozenConfigDict(config)
  path, remount = disk
  run_lib.create_workdir(path / 'run', config, data.load('digits').description)
  remount('ro')
  for name in ('run', 'new'):  # one that goes on, one that begins
    line = error_line(lambda name=name: cifar_train.train(config, path / name), capfd)
    assert line.startswith(f'error: Read-only file system: {path / name}')
  remount('rw')
  assert [p.name for p in path.iterdir()] == ['run']


@pytest.mark.parametrize('step', [1, 3, 14])
def test_directory_deleted_in_mid_run(step, run, before, is_whole, capfd):
  delete = lambda: shutil.rmtree(run.workdir)
  line = error_line(lambda: run(train_step=before(step, delete)), capfd)
  assert line.startswith(f'error: {run.workdir}') and 'was deleted, moved or replaced' in line
  assert not run.workdir.exists()
  is_whole(run, run())


def test_directory_taken_over_by_another_run(run, before, whole, tmp_path, capfd):
  def take_over():
    run.workdir.rename(tmp_path / 'moved')
    shutil.copytree(whole[0].workdir, run.workdir)

  line = error_line(lambda: run(train_step=before(4, take_over)), capfd)
  assert 'was deleted, moved or replaced' in line
  assert files(run.workdir) == files(whole[0].workdir)


@pytest.mark.parametrize('moment', ['_write_arrays', 'write_json'])
@pytest.mark.parametrize('by', ['nobody', 'another run'])
def test_directory_deleted_while_a_checkpoint_is_written(
  by, moment, run, whole, tmp_path, monkeypatch, capfd
):
  write = getattr(checkpoints, moment)

  def delete_and_write(*args):
    monkeypatch.undo()
    run.workdir.rename(tmp_path / 'moved')
    if by == 'another run':
      shutil.copytree(whole[0].workdir, run.workdir)
    write(*args)

  monkeypatch.setattr(checkpoints, moment, delete_and_write)
  assert 'was deleted, moved or replaced' in error_line(run, capfd)
  if by == 'another run':
    assert files(run.workdir) == files(whole[0].workdir)
  else:
    assert not run.workdir.exists()


@pytest.mark.parametrize('is_in_place', [False, True])
def test_a_process_killed_while_it_replaced_a_checkpoint(is_in_place, run, whole, is_whole, capfd):
  """As at the end of an evaluation that was interrupted before."""
  shutil.copytree(whole[0].workdir, run.workdir)
  last = run.workdir / 'checkpoints' / '15'
  shutil.copytree(last, last.with_name('15.replaced'))
  for leftover in ('tmp-1', 'deleted-9'):
    shutil.copytree(last, last.with_name(leftover))
  if not is_in_place:
    shutil.rmtree(last)
  is_whole(run, run())
  assert 'resuming at step 15 of 15' in capfd.readouterr().out
  assert sorted(path.name for path in last.parent.iterdir()) == ['10', '12', '15']


HOLD = """
import pathlib, sys, time
from experiments.runtime import workdir as workdir_lib
with workdir_lib.locked(pathlib.Path(sys.argv[1])):
  print('ready', flush=True)
  time.sleep(99)
"""


def test_the_lock_dies_with_its_process(tmp_path):
  command = [sys.executable, '-c', HOLD, tmp_path]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'ready\n'
  with pytest.raises(UserError, match='another process is training in'):
    with run_lib.locked(tmp_path):
      pass
  process.send_signal(signal.SIGKILL)
  process.communicate()
  with run_lib.locked(tmp_path):
    pass


def test_a_clock_that_is_set_back(run, before, is_whole, monkeypatch):
  hours = itertools.count()
  clock, clock_ns = time.time, time.time_ns
  monkeypatch.setattr(time, 'time', lambda: clock() - 3600 * next(hours))
  monkeypatch.setattr(time, 'time_ns', lambda: clock_ns() - 3600 * 10**9 * next(hours))
  with pytest.raises(KeyboardInterrupt):
    run(train_step=before(7, lambda: os.kill(os.getpid(), signal.SIGINT)))
  is_whole(run, run())
  seconds = [row['seconds'] for row in read_rows(run.workdir / 'metrics.jsonl')]
  assert seconds == sorted(seconds) and seconds[0] >= 0 and seconds[-1] < 3600
