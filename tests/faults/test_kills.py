"""Killed runs: every one that goes on ends as one that was never interrupted.

The short set kills a small loop, and goes on with each experiment from what a kill in a checkpoint
leaves. The long set kills the commands of all experiments, a hundred times and at any moment, and
sends other signals now and then:

  python -m pytest tests/faults --long --figures results/reliability
"""

import collections
import dataclasses
import functools
import importlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.runtime import checksums
from experiments.runtime.metrics import read_rows
from tests import configurations

ROOT = Path(__file__).parents[2]

# Spec and changes of each experiment: variants that compile quickly, one with running means.
OFTEN = {'run.log_every': 3, 'run.checkpoint_every': 4}
EXPERIMENTS = {
  'cifar': ('bn,tiny', OFTEN),
  'vae': ('digits-diag-plain,tiny', OFTEN),
  'draw': ('plain,noattention,tiny', {'epochs': 2, **OFTEN}),
  'dqn': (
    'breakout-plain,tiny',
    {'epochs': 1, 'run.log_every': 40, 'run.checkpoint_every': 60},
  ),
}
EXTRAS = {'dqn': 'ale_py'}  # a package of its extra
AVAILABLE = [name for name in EXPERIMENTS if find_spec(EXTRAS.get(name, 'jax'))]


def skip_if_missing(experiment):
  if experiment not in AVAILABLE:
    pytest.skip(f'{experiment} needs {EXTRAS[experiment]}, which is not installed')


class Nursery:
  """Processes of experiments, one at a time."""

  def __init__(self):
    self._process = subprocess.Popen(
      [sys.executable, Path(__file__).parent / 'nursery.py', *AVAILABLE],
      cwd=ROOT,
      env={
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0',  # or each child would start anew to set it
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',  # one compiles for all
      },
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      bufsize=1,
    )

  def start(self, experiment, workdir):
    """Starts, or goes on with, a run; returns its process number."""
    spec, changes = EXPERIMENTS[experiment]
    arguments = [f'--config=configs/{experiment}.py:{spec}', f'--workdir={workdir}']
    arguments += [f'--config.{key}={value}' for key, value in changes.items()]
    log = str(workdir.with_suffix('.log'))
    print(json.dumps([experiment, arguments, log]), file=self._process.stdin, flush=True)
    return int(self._process.stdout.readline())

  def has_ended(self):
    return bool(select.select([self._process.stdout], [], [], 0)[0])

  def code(self):
    """Waits for the end of the run."""
    return int(self._process.stdout.readline())

  def close(self):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


@pytest.fixture(scope='module')
def nursery():
  nursery = Nursery()
  yield nursery
  nursery.close()


@pytest.fixture(scope='module')
def uninterrupted(nursery, tmp_path_factory):
  """Experiment → an uninterrupted run of it."""
  runs = {}

  def uninterrupted_(experiment):
    skip_if_missing(experiment)
    if experiment not in runs:
      runs[experiment] = tmp_path_factory.mktemp('uninterrupted') / experiment
      nursery.start(experiment, runs[experiment])
      assert nursery.code() == 0, runs[experiment].with_suffix('.log').read_text()
    return runs[experiment]

  return uninterrupted_


@dataclasses.dataclass(frozen=True)
class Plan:
  """A signal and its moment, counted from the start of the process.

  Attributes:
    signum: the signal.
    rows: to wait for; 0: for the lock of the directory, before the first step.
    in_checkpoint: also wait until a checkpoint is being written.
    seconds: to wait then.
  """

  signum: int = signal.SIGKILL
  rows: int = 0
  in_checkpoint: bool = False
  seconds: float = 0.0

  @classmethod
  def draw(cls, rng):
    signum = signal.SIGKILL if rng.random() < 0.8 else rng.choice([signal.SIGINT, signal.SIGTERM])
    if rng.random() < 0.1:
      return cls(signum, seconds=rng.uniform(0.0, 3.0))
    seconds = rng.choice([0.0, rng.uniform(0.0, 0.3)])
    return cls(signum, rng.randrange(1, 7), rng.random() < 0.6, seconds)


def stop(nursery, experiment, workdir, plan):
  """Starts a run and sends it the signal; returns what it hit, or None if the run ended before."""
  first = count_rows(workdir)
  pid = nursery.start(experiment, workdir)

  def is_due():
    if count_rows(workdir) < first + plan.rows or not (workdir / 'lock').exists():
      return False
    return is_in_checkpoint(workdir) or not plan.in_checkpoint

  while not nursery.has_ended() and not is_due():
    time.sleep(0.001)
  time.sleep(plan.seconds)
  if not nursery.has_ended():
    os.kill(pid, plan.signum)
  code = nursery.code()
  log = workdir.with_suffix('.log').read_text()
  assert 'warning' not in log.lower() and not list(workdir.rglob('*.damaged')), log
  if code == 0:
    return None
  if plan.signum != signal.SIGKILL:
    assert code == 128 + plan.signum, log
    line = log.splitlines()[-1]
    assert line.startswith('stopped ') and line.endswith('; rerun the same command to resume.')
    return signal.Signals(plan.signum).name
  assert code == -signal.SIGKILL, log
  if is_in_checkpoint(workdir):
    return 'killed while a checkpoint was written'
  return 'killed in training' if count_rows(workdir) > first else 'killed before the first row'


def count_rows(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_bytes().count(b'\n') if path.exists() else 0


def is_in_checkpoint(workdir):
  return any((workdir / 'checkpoints').glob('tmp-*'))


def assert_equal_runs(workdir, whole):
  rows, expected = (
    [
      {name: value for name, value in row.items() if name != 'seconds' and 'per_second' not in name}
      for row in read_rows(directory / 'metrics.jsonl')
    ]
    for directory in (workdir, whole)
  )
  assert rows == expected
  jax.tree.map(np.testing.assert_array_equal, last_state(workdir), last_state(whole))


def last_state(workdir):
  """All arrays of the last checkpoint."""
  step = max(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdecimal())
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(workdir / 'checkpoints' / str(step) / 'default')


def stop_often(nursery, experiment, whole, directory, plans):
  """Stops runs of an experiment by these plans; returns how often at what, and the runs it took."""
  hits, runs = collections.Counter(), 0
  workdir = directory / str(runs)
  for plan in plans:
    hit = stop(nursery, experiment, workdir, plan)
    if hit is None:  # it has ended: the next plan is for another
      assert_equal_runs(workdir, whole)
      runs += 1
      workdir = directory / str(runs)
    else:
      hits[hit] += 1
  nursery.start(experiment, workdir)
  assert nursery.code() == 0, workdir.with_suffix('.log').read_text()
  assert_equal_runs(workdir, whole)
  return hits, runs + 1


KILLED = """
import os, pathlib, signal, sys
from experiments.runtime import checksums
from conftest import Run

written = []

def kill(folder):
  written.append(folder)
  if len(written) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  write(folder)

write, checksums.write = checksums.write, kill
Run(pathlib.Path(sys.argv[1]))()
"""


def test_kill_in_a_checkpoint(run, is_whole):
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-c', KILLED, run.workdir]
  result = subprocess.run(command, cwd=Path(__file__).parent, env=environment)
  assert result.returncode == -signal.SIGKILL
  assert run.checkpoints == [3] and is_in_checkpoint(run.workdir)
  is_whole(run, run())


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_what_a_kill_in_a_checkpoint_leaves(experiment, tmp_path, monkeypatch):
  """A copy of the directory, made while the second checkpoint is written."""
  skip_if_missing(experiment)
  spec, changes = EXPERIMENTS[experiment]
  module = importlib.import_module(f'configs.{experiment}')
  train = importlib.import_module(f'experiments.{experiment}.train').train
  train = functools.partial(train, configurations.frozen(module, spec, changes))
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  write = checksums.write

  def copy_and_write(folder):
    if any(path.name.isdecimal() for path in folder.parent.iterdir()):
      monkeypatch.undo()
      shutil.copytree(whole, killed)
    write(folder)

  monkeypatch.setattr(checksums, 'write', copy_and_write)
  train(whole)
  assert is_in_checkpoint(killed)
  train(killed)
  assert_equal_runs(killed, whole)


@pytest.mark.long
@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_kill_often(experiment, nursery, uninterrupted, tmp_path, request, figures):
  """100 kills over all experiments, or --kills."""
  wanted = -(-request.config.getoption('kills') // len(AVAILABLE))
  seed = request.config.getoption('seed')
  whole = uninterrupted(experiment)
  rng = random.Random(f'{experiment} {seed}')
  hits, runs, kills = collections.Counter(), 0, 0
  while kills < wanted:
    plans = [Plan.draw(rng) for _ in range(wanted - kills)]
    directory = tmp_path / str(runs)
    directory.mkdir()
    new, took = stop_often(nursery, experiment, whole, directory, plans)
    hits += new
    runs += took
    kills = sum(count for what, count in hits.items() if what.startswith('killed'))
  figures(
    f'kills-{experiment}',
    {'seed': seed, 'kills': kills, 'hits': hits, 'runs that ended equal': runs},
  )
