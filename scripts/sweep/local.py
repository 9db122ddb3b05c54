"""Trials as processes of this machine."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import submitit

from experiments.runtime.errors import UserError
from scripts.sweep.job import Job
from scripts.sweep.trials import Trial


class Local:
  """Processes of this machine, `jobs` at a time.

  Args:
    directory: of the sweep.
    jobs: how many trials run at a time.
    gpus: for each trial, of those that this process sees; with 0, each trial sees them all.

  Raises:
    UserError: CUDA_VISIBLE_DEVICES names fewer GPUs than that.
  """

  poll_seconds = 0.5

  def __init__(self, directory: Path, jobs: int, gpus: int = 0):
    self._folder = directory / 'submitit'
    self._free = list(range(jobs))[::-1]
    self._gpus = gpus
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    self._devices = [str(i) for i in range(jobs * gpus)] if visible is None else visible.split(',')
    if len(self._devices) < jobs * gpus:
      raise UserError(
        f'--jobs {jobs} --gpus {gpus}: CUDA_VISIBLE_DEVICES={visible} has too few GPUs for that.'
      )
    self._waiting: list[Trial] = []
    self._running: dict[str, tuple[submitit.Job, int]] = {}

  def submit(self, trials: Sequence[Trial]) -> None:
    """As in `Executor`."""
    self._executor = submitit.LocalExecutor(self._folder)
    # submitit's own limit of time is minutes; a trial has none here.
    self._executor.update_parameters(timeout_min=10 * 365 * 24 * 60)
    self._waiting = list(trials)

  def state(self, trial: Trial) -> str:
    """As in `Executor`; also starts the next trials."""
    for name, (job, slot) in list(self._running.items()):
      if job.done():
        del self._running[name]
        self._free.append(slot)
    while self._free and self._waiting:
      self._start(self._waiting.pop(0), self._free.pop())
    if trial.name in self._running:
      return 'running'
    return 'waiting' if trial in self._waiting else 'ended'

  def interrupt(self) -> None:
    """Stops the running trials: they are asked to, and after half a minute they are killed."""
    # Not by job.cancel(): its SIGINT is ignored in what runs in the background, and submitit then
    # kills its own processes but not the command below them. A job's number is its process.
    controllers = []
    for job, _ in self._running.values():
      with contextlib.suppress(psutil.NoSuchProcess):
        controllers.append(psutil.Process(int(job.job_id)))
    _each(_tree(controllers, is_command=False), psutil.Process.suspend)  # they start nothing more
    processes, commands = _tree(controllers), _tree(controllers, is_command=True)
    _each(commands, psutil.Process.terminate)
    deadline = time.monotonic() + 30
    while any(map(_is_alive, commands)) and time.monotonic() < deadline:
      time.sleep(0.1)
    _each(processes, psutil.Process.kill)
    while not all(job.done() for job, _ in self._running.values()):
      time.sleep(0.01)

  def _start(self, trial: Trial, slot: int) -> None:
    trial.log.parent.mkdir(parents=True, exist_ok=True)
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if self._gpus:
      visible = ','.join(self._devices[slot * self._gpus : (slot + 1) * self._gpus])
    # submitit hides all GPUs from local jobs, so None, which removes its setting, says more.
    job = Job(trial, {'CUDA_VISIBLE_DEVICES': visible})
    with _stderr_to(self._folder / 'stderr.log'):  # or submitit's processes write to the terminal
      self._running[trial.name] = (self._executor.submit(job), slot)


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
  """Redirects stderr, of processes that are started as well, to the end of a file."""
  sys.stderr.flush()
  saved = os.dup(2)
  try:
    with path.open('a') as file:
      os.dup2(file.fileno(), 2)
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)


def _tree(
  controllers: Sequence[psutil.Process], is_command: bool | None = None
) -> list[psutil.Process]:
  """The processes of submitit and below; only commands of trials, or only what is none."""
  found = list(controllers)
  for process in controllers:
    with contextlib.suppress(psutil.Error):
      found += process.children(recursive=True)
  return [p for p in found if is_command is None or _is_submitit(p) != is_command]


def _each(processes: Sequence[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
  for process in processes:
    with contextlib.suppress(psutil.NoSuchProcess):
      act(process)


def _is_alive(process: psutil.Process) -> bool:
  """Also false for one that has ended and that its parent, suspended, has not asked about."""
  with contextlib.suppress(psutil.Error):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
  return False


def _is_submitit(process: psutil.Process) -> bool:
  with contextlib.suppress(psutil.Error):
    return any(part.startswith('submitit.') for part in process.cmdline())
  return False
