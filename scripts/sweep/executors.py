"""Where trials run: in processes of this machine, or as jobs of a Slurm cluster, by submitit."""

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
    poll_seconds: how often to ask for states.
  """

  poll_seconds: float

  def submit(self, trials: Sequence[Trial]) -> None:
    """Takes trials to run."""

  def state(self, trial: Trial) -> str:
    """'waiting', 'running' or 'ended'."""

  def interrupt(self) -> None:
    """The sweep was interrupted."""


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
