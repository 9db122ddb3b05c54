"""Where trials run: in processes of this machine, or as jobs of a Slurm cluster, by submitit."""

import argparse
import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import psutil
import submitit

from experiments.training.errors import UserError
from experiments.training.run import write_json
from scripts.sweep.trials import Trial, is_finished


class Executor(Protocol):
  """Runs trials.

  Attributes:
    poll_seconds: how often to ask for states.
  """

  poll_seconds: float

  def submit(self, trials: Sequence[Trial]) -> None:
    """Takes trials to run."""

  def state(self, trial: Trial) -> str:
    """'waiting', 'running' or 'ended'."""

  def interrupt(self) -> None:
    """The sweep was interrupted."""


class Job:
  """What submitit runs for a trial: its command, as a process of its own.

  Not the experiment's own function: the command prepares the environment before JAX starts.

  Args:
    trial: the trial.
    environment: changes of the environment; None removes a variable.
    ignored: signals that the command does not see.
  """

  def __init__(
    self,
    trial: Trial,
    environment: Mapping[str, str | None] = MappingProxyType({}),
    ignored: Sequence[signal.Signals] = (),
  ):
    self.command = trial.command
    self.log = str(trial.log)
    self.environment = dict(environment)
    self.ignored = tuple(ignored)
    self.process: subprocess.Popen | None = None

  def __call__(self) -> None:
    """Waits for the end of the command."""
    environment = {**os.environ, **self.environment}
    environment = {key: value for key, value in environment.items() if value is not None}
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in self.ignored}
    with open(self.log, 'a') as log:
      self.process = subprocess.Popen(
        self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
      )
    for number, handler in handlers.items():
      signal.signal(number, handler)
    try:
      code = self.process.wait()
    except BaseException:
      self.process.kill()
      raise
    if code:
      raise RuntimeError(f'exit code {code}')

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """Called by submitit before the job is queued again: the same command goes on."""
    if self.process:
      self.process.kill()  # it loses the time since its last checkpoint
    again = Job.__new__(Job)
    again.__dict__.update(self.__dict__, process=None)
    return submitit.helpers.DelayedSubmission(again)


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


class Slurm:
  """Jobs of a Slurm cluster, in arrays; known by their numbers in `submitit/jobs.json`.

  States come from `squeue`, as many clusters keep no accounts for `sacct`.

  Args:
    directory: of the sweep, which every node sees.
    args: of the command line.
  """

  poll_seconds = 5.0

  def __init__(self, directory: Path, args: argparse.Namespace):
    for program in ('sbatch', 'srun', 'squeue', 'scontrol'):
      if shutil.which(program) is None:
        raise UserError(f'there is no Slurm on this machine (no {program}); use --executor local.')
    self._folder = directory / 'submitit'
    self._args = args
    self._jobs: dict[str, str] = {}  # name of trial → number of job
    self._adopted: set[str] = set()  # names of trials whose jobs an earlier sweep submitted
    self._queue: dict[str, str] = {}  # number of job → its state
    self._absent: dict[str, int] = {}  # number of job → how often in a row it was not in the queue
    self._asked = -math.inf

  def submit(self, trials: Sequence[Trial]) -> None:
    """Queues the trials that are not in the queue already."""
    record = self._folder / 'jobs.json'
    old = json.loads(record.read_text()) if record.exists() else {}
    if message := self._ask():
      raise UserError(f'Slurm does not answer: {message}')
    self._jobs = {name: number for name, number in old.items() if number in self._queue}
    self._adopted = set(self._jobs)
    self._submit([trial for trial in trials if trial.name not in self._jobs])

  def state(self, trial: Trial) -> str:
    """As in `Executor`."""
    if time.monotonic() - self._asked > self.poll_seconds / 2:
      self._ask()
    number = self._jobs[trial.name]
    if number in self._queue:
      return 'waiting' if self._queue[number] == 'PENDING' else 'running'
    # Twice in a row: a job may be queued anew, and files of another machine come late.
    if self._absent.get(number, 0) < 2:
      return 'waiting'
    if trial.name in self._adopted and not is_finished(trial):
      self._submit([trial])  # it was ending, perhaps cancelled, when it was adopted
      return 'waiting'
    return 'ended'

  def interrupt(self) -> None:
    """Leaves the jobs in the queue and says so."""
    if arrays := ' '.join(dict.fromkeys(n.split('_')[0] for n in self._jobs.values())):
      print(f'the jobs stay in the queue; --resume watches them again, scancel {arrays} ends them.')

  def _submit(self, trials: Sequence[Trial]) -> None:
    args = self._args
    for trial in trials:
      trial.log.parent.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(self._folder, max_num_timeout=1000)
    executor.update_parameters(
      job_name=self._folder.parent.name,
      time=args.time,
      cpus_per_task=args.cpus,
      array_parallelism=args.jobs,
      additional_parameters={'requeue': True},
      **({'partition': args.partition} if args.partition else {}),
      **({'gpus_per_node': args.gpus} if args.gpus else {}),
      **({'mem': f'{round(1024 * args.memory)}MB'} if args.memory else {}),
    )
    # Slurm sends its warnings of a preemption or timeout to every process of a job. They are for
    # submitit, which tells the command by `Job.checkpoint`.
    ignored = (signal.SIGUSR2, signal.SIGTERM)
    for start in range(0, len(trials), args.array_size):
      part = trials[start : start + args.array_size]
      # Jobs that are submitted are recorded: an interruption waits until they are.
      mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
      try:
        with executor.batch():
          jobs = [executor.submit(Job(trial, ignored=ignored)) for trial in part]
        self._jobs |= {trial.name: job.job_id for trial, job in zip(part, jobs, strict=True)}
        write_json(self._folder / 'jobs.json', self._jobs)
      except submitit.core.utils.FailedJobError as error:
        raise UserError(f'Slurm does not take the jobs: {error}') from error
      finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    self._adopted -= {trial.name for trial in trials}
    self._asked = -math.inf

  def _ask(self) -> str:
    """Asks for the states of all jobs; returns what is wrong if Slurm does not answer."""
    self._asked = time.monotonic()
    result = subprocess.run(
      ['squeue', '--me', '--noheader', '--array', '--format=%i %T'], capture_output=True, text=True
    )
    if result.returncode:  # the controller is busy or restarting
      return result.stderr.strip() or f'exit code {result.returncode} of squeue'
    self._queue = dict(line.split() for line in result.stdout.splitlines())
    for number in self._jobs.values():
      self._absent[number] = 0 if number in self._queue else self._absent.get(number, 0) + 1
    return ''


def create(args: argparse.Namespace, directory: Path) -> Executor:
  """The executor that the command line asks for.

  Raises:
    UserError: it cannot be used here.
  """
  if args.executor == 'slurm':
    return Slurm(directory, args)
  return Local(directory, args.jobs, args.gpus)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
  """Keeps a second sweep out of the directory.

  Raises:
    UserError: another process runs this sweep.
  """
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / 'lock').open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(f'another process runs the sweep in {directory}; wait for it.') from error
    yield
