"""Runs trials as jobs on a Slurm cluster."""

import argparse
import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import submitit

from experiments.runtime.errors import UserError
from experiments.runtime.workdir import write_json
from scripts.sweep.job import ON_GPU, Job
from scripts.sweep.trials import Trial, is_finished

_PATIENCE = 600.0  # seconds; more than GraceTime + KillWait, between SIGTERM and SIGKILL


class Slurm:
  """Runs trials in job arrays on a Slurm cluster, and keeps the job IDs in `submitit/jobs.json`.

  States come from `squeue`, as many clusters lack the accounting for `sacct`.

  Args:
    directory: of the sweep, on a file system shared by all nodes.
    args: of the command line.
  """

  poll_seconds = 5.0

  def __init__(self, directory: Path, args: argparse.Namespace):
    for program in ('sbatch', 'srun', 'squeue', 'scontrol'):
      if shutil.which(program) is None:
        raise UserError(f'there is no Slurm on this machine (no {program}); use --executor local.')
    self._folder = directory / 'submitit'
    self._args = args
    self._jobs: dict[str, str] = {}  # trial name → job ID
    self._adopted: set[str] = set()  # names of trials submitted by an earlier sweep
    self._queue: dict[str, str] = {}  # job ID → state
    self._absent: dict[str, int] = {}  # job ID → consecutive times missing in the queue
    self._asked = -math.inf

  def submit(self, trials: Sequence[Trial]) -> None:
    """Queues the trials that aren't queued already."""
    record = self._folder / 'jobs.json'
    old = json.loads(record.read_text()) if record.exists() else {}
    if message := self._ask():
      raise UserError(f'Slurm does not respond: {message}')
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
    # Twice in a row, as jobs may be requeued, and files from other machines arrive late.
    if self._absent.get(number, 0) < 2:
      return 'waiting'
    if trial.name in self._adopted and not is_finished(trial):
      self._submit([trial])  # its job was ending, perhaps cancelled, when adopted
      return 'waiting'
    return 'ended'

  def interrupt(self) -> None:
    """Leaves the jobs in the queue and prints how to proceed."""
    if arrays := ' '.join(dict.fromkeys(n.split('_')[0] for n in self._jobs.values())):
      print(f'jobs stay in the queue: --resume watches them again, scancel {arrays} ends them.')

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
    # Slurm announces a preemption or timeout to every process of a job. SIGUSR2 is for submitit,
    # which stops the command in `Job.checkpoint`; SIGTERM is handled by the command.
    ignored = (signal.SIGUSR2,)
    defaults = ON_GPU if args.gpus else {}
    for start in range(0, len(trials), args.array_size):
      part = trials[start : start + args.array_size]
      # Blocks interruptions until the submitted jobs are recorded.
      mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
      try:
        with executor.batch():
          jobs = [
            executor.submit(Job(trial, defaults=defaults, ignored=ignored, patience=_PATIENCE))
            for trial in part
          ]
        self._jobs |= {trial.name: job.job_id for trial, job in zip(part, jobs, strict=True)}
        write_json(self._folder / 'jobs.json', self._jobs)
      except submitit.core.utils.FailedJobError as error:
        raise UserError(f'Slurm rejected the jobs: {error}') from error
      finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    self._adopted -= {trial.name for trial in trials}
    self._asked = -math.inf

  def _ask(self) -> str:
    """Updates the states of all jobs; returns a message if Slurm does not respond."""
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
