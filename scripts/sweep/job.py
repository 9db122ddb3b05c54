"""What submitit runs for a trial, here or on a cluster."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import submitit

from scripts.sweep.trials import Trial

_SECONDS_TO_STOP = 30.0  # a command needs less: experiments.runtime.interrupts


class Job:
  """What submitit runs for a trial: its command, as a process of its own.

  Not the experiment's own function: the command prepares the environment before JAX starts.

  Args:
    trial: the trial.
    environment: changes of the environment; None removes a variable.
    ignored: signals that the command does not see.
    patience: seconds to wait for the end of the job after the command was stopped by SIGTERM. Only
      Slurm knows whether it preempts the job, which it queues again if it has to end it, or whether
      the user cancels it. A job that ends by itself has failed in either case; one that queued
      itself again could not be cancelled.
  """

  def __init__(
    self,
    trial: Trial,
    environment: Mapping[str, str | None] = MappingProxyType({}),
    ignored: Sequence[signal.Signals] = (),
    patience: float = 0.0,
  ):
    self.command = trial.command
    self.log = str(trial.log)
    self.environment = dict(environment)
    self.ignored = tuple(ignored)
    self.patience = patience
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
      if code == 128 + signal.SIGTERM:
        time.sleep(self.patience)
    except BaseException:
      self.process.kill()
      raise
    if code:
      raise RuntimeError(f'exit code {code}')

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """Called by submitit before the job is queued again: the same command goes on."""
    if self.process:
      self.process.terminate()  # it writes a checkpoint
      deadline = time.monotonic() + _SECONDS_TO_STOP
      while self._is_running() and time.monotonic() < deadline:
        time.sleep(0.1)
      self.process.kill()
    again = Job.__new__(Job)
    again.__dict__.update(self.__dict__, process=None)
    return submitit.helpers.DelayedSubmission(again)

  def _is_running(self) -> bool:
    # Not by Popen.poll: this runs in a signal handler, on top of Popen.wait, which holds its lock.
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    try:
      return os.waitid(os.P_PID, self.process.pid, options) is None
    except ChildProcessError:
      return False
