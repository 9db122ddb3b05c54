"""Signals at random moments: every run that goes on ends as one that was never interrupted.

The short set interrupts each experiment once and kills it twice. The long set kills a hundred times
and sends other signals now and then:

  python -m pytest tests/faults --long --figures results/reliability
"""

import collections
import dataclasses
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.training.metrics import read_rows

ROOT = Path(__file__).parents[2]

# The command of each experiment: programs that other tests compile as well. Metrics whose names
# contain 'per_second' may differ.
EXPERIMENTS = {
  'cifar': ['--config=configs/cifar.py:wn_mean_bn,tiny'],
  'vae': ['--config=configs/vae.py:digits-iaf-wn,tiny', '--config.epochs=4'],
}
OFTEN = ['--config.checkpoint_every=4', '--config.log_every=3']


class Nursery:
  """Processes of experiments, one at a time."""

  def __init__(self):
    self._process = subprocess.Popen(
      [sys.executable, Path(__file__).parent / 'nursery.py', *EXPERIMENTS],
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
    arguments = [*EXPERIMENTS[experiment], *OFTEN, f'--workdir={workdir}']
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
def whole(nursery, tmp_path_factory):
  """Experiment → an uninterrupted run of it."""
  runs = {}

  def whole_(experiment):
    if experiment not in runs:
      runs[experiment] = tmp_path_factory.mktemp('whole') / experiment
      nursery.start(experiment, runs[experiment])
      assert nursery.code() == 0, runs[experiment].with_suffix('.log').read_text()
    return runs[experiment]

  return whole_


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
    return cls(signum, rng.randrange(1, 12), rng.random() < 0.6, seconds)


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
    assert line.startswith('stopped ') and line.endswith('; the same command goes on.')
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


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_interrupt_at_the_start_and_kill_twice(experiment, nursery, whole, tmp_path):
  signum = {'cifar': signal.SIGINT}.get(experiment, signal.SIGTERM)
  plans = [Plan(signum), Plan(rows=1, in_checkpoint=True), Plan(rows=3)]
  hits, _ = stop_often(nursery, experiment, whole(experiment), tmp_path, plans)
  assert hits.total() == 3


@pytest.mark.long
@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_kill_often(experiment, nursery, whole, tmp_path, request, figures):
  """100 kills over all experiments, or --kills."""
  wanted = -(-request.config.getoption('kills') // len(EXPERIMENTS))
  seed = request.config.getoption('seed')
  rng = random.Random(f'{experiment} {seed}')
  hits, runs, kills = collections.Counter(), 0, 0
  while kills < wanted:
    plans = [Plan.draw(rng) for _ in range(wanted - kills)]
    directory = tmp_path / str(runs)
    directory.mkdir()
    new, took = stop_often(nursery, experiment, whole(experiment), directory, plans)
    hits += new
    runs += took
    kills = sum(count for what, count in hits.items() if what.startswith('killed'))
  figures(
    f'kills-{experiment}',
    {'seed': seed, 'kills': kills, 'hits': hits, 'runs that ended equal': runs},
  )
