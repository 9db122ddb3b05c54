"""Runs trials as processes on this machine or as jobs on a Slurm cluster, with submitit."""

import argparse
import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from experiments.runtime.errors import UserError
from scripts.sweep.local import Local
from scripts.sweep.slurm import Slurm
from scripts.sweep.trials import Trial


class Executor(Protocol):
  """Runs trials.

  Attributes:
    poll_seconds: interval between calls of `state`.
  """

  poll_seconds: float

  def submit(self, trials: Sequence[Trial]) -> None:
    """Queues trials."""

  def state(self, trial: Trial) -> str:
    """Returns 'waiting', 'running' or 'ended'."""

  def interrupt(self) -> None:
    """Called when the sweep is interrupted."""


def create(args: argparse.Namespace, directory: Path) -> Executor:
  """The executor chosen on the command line.

  Raises:
    UserError: it isn't available here.
  """
  if args.executor == 'slurm':
    return Slurm(directory, args)
  return Local(directory, args.jobs, args.gpus)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
  """Locks the directory of a sweep.

  Raises:
    UserError: another process is running the sweep.
  """
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / 'lock').open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      message = f'another process is running the sweep in {directory}; wait for it.'
      raise UserError(message) from error
    yield
