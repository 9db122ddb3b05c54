"""Runs trials as processes on this machine."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import submitit

from experiments.runtime.errors import UserError
from scripts.sweep.job import ON_GPU, Job
from scripts.sweep.trials import Trial


class Local:
  """Runs trials as processes.

  Runs `jobs` trials at a time. Each gets `gpus` of the visible GPUs; if 0, it sees all of them.

  Raises:
    UserError: CUDA_VISIBLE_DEVICES has fewer GPUs than needed.
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
    # Overrides submitit's time limit of a few minutes.
    self._executor.update_parameters(timeout_min=10 * 365 * 24 * 60)
    self._waiting = list(trials)

  def state(self, trial: Trial) -> str:
    """As in `Executor`; also starts waiting trials."""
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
    """Terminates the running trials, and kills them after half a minute."""
    # Not job.cancel(): background processes ignore its SIGINT, and submitit then kills its own
    # processes but not the commands below them. A job's ID is its process ID.
    controllers = []
    for job, _ in self._running.values():
      with contextlib.suppress(psutil.NoSuchProcess):
        controllers.append(psutil.Process(int(job.job_id)))
    _each(_tree(controllers, is_command=False), psutil.Process.suspend)  # start nothing more
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
    # submitit hides all GPUs from local jobs; None removes that setting.
    job = Job(trial, {'CUDA_VISIBLE_DEVICES': visible}, ON_GPU if self._gpus else {})
    with _stderr_to(self._folder / 'stderr.log'):  # else submitit writes to the terminal
      self._running[trial.name] = (self._executor.submit(job), slot)


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
  """Appends stderr, also of processes started inside, to a file."""
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
  """submitit's processes and those below; optionally only trials' commands, or all but those."""
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
  """False also for a zombie, which its suspended parent can't reap."""
  with contextlib.suppress(psutil.Error):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
  return False


def _is_submitit(process: psutil.Process) -> bool:
  with contextlib.suppress(psutil.Error):
    return any(part.startswith('submitit.') for part in process.cmdline())
  return False
