"""The benchmarks of whole runs: `epoch` and `startup`."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from experiments.runtime.errors import UserError
from scripts.benchmark import steps

# Experiment → what `startup` starts, and after how many steps it writes the first row of metrics.
STARTS = {
  'cifar': ('configs/cifar.py:wn,scaled', 1),
  'vae': ('configs/vae.py:mnist-iaf-wn,scaled', 1),
  'draw': ('configs/draw.py:wn,digits', 1),
  'dqn': ('configs/dqn.py:breakout-wn,short', 8),  # one for each game played in parallel
}


def epoch(args: argparse.Namespace) -> None:
  """Measures the time of an epoch over the time of its steps, which are repeated after each epoch.

  An epoch includes shuffling, steps, logging, evaluation and a checkpoint. The first one is left
  out, as it compiles.
  """
  from ml_collections import config_dict

  from configs import cifar
  from experiments.cifar import train
  from experiments.training.session import Session

  config = cifar.get_config('wn,scaled')
  config.batch_size = args.batch
  config.model.update(width=args.width, dtype=args.dtype or 'float32')
  config.epochs = args.rounds + 1
  stopwatch = _Stopwatch(train.compile_steps, Session.before_evaluation, Session.epoch_done)
  with (
    tempfile.TemporaryDirectory() as folder,
    mock.patch.object(train, 'compile_steps', stopwatch.compile_steps),
    mock.patch.object(Session, 'before_evaluation', stopwatch.before_evaluation()),
    mock.patch.object(Session, 'epoch_done', stopwatch.epoch_done()),
  ):
    train.train(config_dict.FrozenConfigDict(config), Path(folder) / 'run', args.data_dir)
  rounds = stopwatch.rounds[1:]
  whole = [r['epoch'] / r['steps'] for r in rounds]
  rest = [(r['epoch'] - r['evaluation']) / r['steps'] for r in rounds]
  for name, ratios in (('epoch / its steps', whole), ('the same without evaluation', rest)):
    spread = f'{min(ratios):.3f}–{max(ratios):.3f}, {len(ratios)} epochs'
    print(f'{name}: {statistics.median(ratios):.3f} ({spread})')
  if args.json:
    content = {'machine': steps.machine(), 'width': args.width, 'batch': args.batch}
    steps.write(args.json, {**content, 'rounds': rounds})


class _Stopwatch:
  """Times each epoch, and repeats its steps without the loop.

  Its methods replace those of the experiment and its session, and call them.

  Attributes:
    rounds: for each epoch the seconds of the epoch, of its evaluation, and of its steps alone.
  """

  def __init__(
    self,
    compile_steps: Callable[..., Any],
    before_evaluation: Callable[..., None],
    epoch_done: Callable[..., None],
  ):
    self.rounds: list[dict[str, float]] = []
    self._originals = compile_steps, before_evaluation, epoch_done
    self._calls: list[Sequence[Any]] = []  # arguments of the epoch's steps
    self._epoch_start = self._evaluation_start = time.perf_counter()

  def compile_steps(self, *args: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """As `train.compile_steps`, but records the arguments of the training step."""
    self._step, test_step = self._originals[0](*args)

    def step(state: Any, *args: Any) -> Any:
      self._calls.append(args)
      return self._step(state, *args)

    return step, test_step

  def before_evaluation(self) -> Callable[..., None]:
    """The replacement of `Session.before_evaluation`."""

    def stand_in(run: Any, state: Any) -> None:
      self._evaluation_start = time.perf_counter()
      self._originals[1](run, state)

    return stand_in

  def epoch_done(self) -> Callable[..., None]:
    """The replacement of `Session.epoch_done`, which repeats the steps."""

    def stand_in(run: Any, state: Any, results: Any) -> None:
      pause = time.perf_counter()
      self.rounds.append(
        {
          'epoch': pause - self._epoch_start,
          'evaluation': pause - self._evaluation_start,
          'steps': _seconds_of_steps(state, self._step, self._calls),
        }
      )
      self._calls.clear()
      self._epoch_start = time.perf_counter()  # the checkpoint counts towards the next epoch
      self._originals[2](run, state, results)

    return stand_in


def _seconds_of_steps(
  state: Any, train_step: Callable[..., Any], calls: Sequence[Sequence[Any]]
) -> float:
  """Seconds of consecutive steps, on a copy of the state."""
  import jax
  import jax.numpy as jnp

  state = jax.block_until_ready(jax.tree.map(jnp.copy, state))
  start = time.perf_counter()
  for arguments in calls:
    state, metrics = train_step(state, *arguments)
  jax.block_until_ready((state, metrics))
  return time.perf_counter() - start


def startup(args: argparse.Namespace) -> None:
  """Measures the time from the command to the first finished step of each experiment with `wn`.

  Each round runs each command with an empty compilation cache, then again with the filled one. Data
  that a run keeps for later ones, such as whitened images, are as they are on the machine.
  """
  rounds: list[dict[str, dict[str, float]]] = []
  for _ in range(args.rounds):
    rounds.append({})
    for experiment in STARTS:
      with tempfile.TemporaryDirectory() as folder:
        cold, warm = (_first_step(experiment, args, Path(folder), str(i)) for i in range(2))
      rounds[-1][experiment] = {'cold': cold, 'warm': warm}
      print(f'{experiment}: cold cache {cold:.1f} s, warm cache {warm:.1f} s', flush=True)
  for experiment, (config, _) in STARTS.items():
    for cache in ('cold', 'warm'):
      seconds = [r[experiment][cache] for r in rounds]
      spread = f'{min(seconds):.1f}–{max(seconds):.1f}'
      print(f'{config}, {cache} cache: {statistics.median(seconds):.1f} s ({spread})')
  if args.json:
    steps.write(args.json, {'machine': steps.machine(), 'configs': STARTS, 'rounds': rounds})


def _first_step(experiment: str, args: argparse.Namespace, folder: Path, name: str) -> float:
  """Starts a run, waits until it has logged a step, and kills it. Returns the seconds.

  Raises:
    UserError: the run failed before its first step.
  """
  workdir = folder / name
  config, log_every = STARTS[experiment]
  command = [sys.executable, '-m', f'experiments.{experiment}', '--config', config]
  command += [f'--config.run.log_every={log_every}', '--workdir', str(workdir)]
  if args.data_dir:
    command += ['--data_dir', args.data_dir]
  env = steps.unprepared(os.environ)  # as a user starts it
  env['JAX_COMPILATION_CACHE_DIR'] = str(folder / 'compiled')
  metrics = workdir / 'metrics.jsonl'
  start = time.perf_counter()
  with subprocess.Popen(
    command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  ) as process:
    while not (metrics.exists() and metrics.stat().st_size):
      if process.poll() is not None:
        raise UserError(f'the run failed: {process.stderr.read().strip()[-300:]}')
      time.sleep(0.02)
    seconds = time.perf_counter() - start
    process.kill()
  return seconds
