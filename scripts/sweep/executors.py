"""Where trials run: in processes of this machine, or as jobs of a Slurm cluster, by submitit."""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import psutil
import submitit

from experiments.training.errors import UserError
from experiments.training.run import write_json
from scripts.sweep.trials import Trial


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
    gpus: the GPUs it sees, as CUDA_VISIBLE_DEVICES has them; None: those that the job sees.
  """

  def __init__(self, trial: Trial, gpus: str | None = None):
    self.command = trial.command
    self.log = str(trial.log)
    self.gpus = gpus
    self.process: subprocess.Popen | None = None

  def __call__(self) -> None:
    """Waits for the end of the command."""
    environment = dict(os.environ)
    if self.gpus is not None:
      environment['CUDA_VISIBLE_DEVICES'] = self.gpus
    # Slurm sends the warning of a preemption or timeout, SIGUSR2, to every process. It is for
    # submitit, in this one; the command is told by `checkpoint`.
    handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with open(self.log, 'a') as log:
      self.process = subprocess.Popen(
        self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
      )
    signal.signal(signal.SIGUSR2, handler)
    try:
      code = self.process.wait()
    except BaseException:
      self._stop()
      raise
    if code:
      raise RuntimeError(f'exit code {code}')

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """Called by submitit before the job is queued again: the same command goes on."""
    self._stop()
    again = Job.__new__(Job)
    again.__dict__.update(self.__dict__, process=None)
    return submitit.helpers.DelayedSubmission(again)

  def _stop(self) -> None:
    if self.process and self.process.poll() is None:
      self.process.terminate()
      try:
        self.process.wait(timeout=30)
      except subprocess.TimeoutExpired:
        self.process.kill()


class Local:
  """Processes of this machine, `jobs` at a time.

  Args:
    directory: of the sweep.
    jobs: how many trials run at a time.
    gpus: for each trial, numbered from 0; with none, each sees what this process sees.
  """

  poll_seconds = 0.5

  def __init__(self, directory: Path, jobs: int, gpus: int = 0):
    self._folder = directory / 'submitit'
    self._free = list(range(jobs))[::-1]
    self._gpus = gpus
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
    # kills its own process but not the command below it. A job's number is its process.
    trees = []
    for job, _ in self._running.values():
      with contextlib.suppress(psutil.NoSuchProcess):
        controller = psutil.Process(int(job.job_id))
        trees += [*controller.children(recursive=True), controller]
    commands = [process for process in trees if not _is_submitit(process)]
    for process in commands:
      with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    _, alive = psutil.wait_procs(trees, timeout=30 if commands else 0)
    for process in alive:
      with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()

  def _start(self, trial: Trial, slot: int) -> None:
    trial.log.parent.mkdir(parents=True, exist_ok=True)
    # submitit hides all GPUs from local jobs unless they ask for some.
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if self._gpus:
      devices = visible.split(',') if visible else [str(gpu) for gpu in range(64)]
      visible = ','.join(devices[slot * self._gpus : (slot + 1) * self._gpus])
    self._running[trial.name] = (self._executor.submit(Job(trial, visible)), slot)


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
    self._queue: dict[str, str] = {}  # number of job → its state
    self._asked = 0.0
    self._absent: dict[str, int] = {}

  def submit(self, trials: Sequence[Trial]) -> None:
    """Queues the trials that are not in the queue already."""
    record = self._folder / 'jobs.json'
    old = json.loads(record.read_text()) if record.exists() else {}
    if message := self._ask():
      raise UserError(f'Slurm does not answer: {message}')
    self._jobs = {name: number for name, number in old.items() if number in self._queue}
    new = [trial for trial in trials if trial.name not in self._jobs]
    args = self._args
    for trial in new:
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
    for start in range(0, len(new), args.array_size):
      part = new[start : start + args.array_size]
      try:
        with executor.batch():
          jobs = [executor.submit(Job(trial)) for trial in part]
      except submitit.core.utils.FailedJobError as error:
        raise UserError(f'Slurm does not take the jobs: {error}') from error
      self._jobs |= {trial.name: job.job_id for trial, job in zip(part, jobs, strict=True)}
      write_json(record, self._jobs)

  def state(self, trial: Trial) -> str:
    """As in `Executor`."""
    if time.monotonic() - self._asked > self.poll_seconds / 2:
      self._ask()
    number = self._jobs[trial.name]
    if number in self._queue:
      return 'waiting' if self._queue[number] == 'PENDING' else 'running'
    # Twice in a row: a job may be queued anew, and files of another machine come late.
    return 'ended' if self._absent.get(number, 0) > 1 else 'running'

  def interrupt(self) -> None:
    """Leaves the jobs in the queue and says so."""
    arrays = ' '.join(dict.fromkeys(number.split('_')[0] for number in self._jobs.values()))
    print(f'the jobs stay in the queue; --resume watches them again, scancel {arrays} ends them.')

  def _ask(self) -> str:
    """Asks for the states of all jobs; returns what is wrong if Slurm does not answer."""
    self._asked = time.monotonic()
    result = subprocess.run(
      ['squeue', '--me', '--noheader', '--array', '--format=%i %T'], capture_output=True, text=True
    )
    if result.returncode:  # the controller is busy or restarting
      return result.stderr.strip()
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
