"""The callable that submitit runs for a trial."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import submitit

from scripts.sweep.trials import Trial

# Has JAX use a GPU or fail: by default it would train on the CPU where it finds none.
ON_GPU = {'JAX_PLATFORMS': 'cuda'}
_SECONDS_TO_STOP = 30.0  # more than a command needs; see experiments.runtime.interrupts


class Job:
  """Runs the command of a trial in its own process.

  A command rather than a function, as it prepares the environment before JAX starts.

  Args:
    trial: the trial.
    environment: variables to set, or to remove if None.
    defaults: variables to set where the user has not.
    ignored: signals that the command ignores.
    patience: seconds to wait for Slurm to end the job after SIGTERM has stopped the command. Only
      Slurm knows whether the job is preempted, and then requeues it, or cancelled by the user. If
      the job ended by itself, it would count as failed; if it requeued itself, it could not be
      cancelled.
  """

  def __init__(
    self,
    trial: Trial,
    environment: Mapping[str, str | None] = MappingProxyType({}),
    defaults: Mapping[str, str] = MappingProxyType({}),
    ignored: Sequence[signal.Signals] = (),
    patience: float = 0.0,
  ):
    self.command = trial.command
    self.log = str(trial.log)
    self.environment = dict(environment)
    self.defaults = dict(defaults)
    self.ignored = tuple(ignored)
    self.patience = patience
    self.process: subprocess.Popen | None = None

  def __call__(self) -> None:
    """Runs the command and waits for it."""
    environment = {**self.defaults, **os.environ, **self.environment}
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
    """Called by submitit before it requeues the job, which will resume."""
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
    # Not Popen.poll: this runs in a signal handler during Popen.wait, which holds its lock.
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    try:
      return os.waitid(os.P_PID, self.process.pid, options) is None
    except ChildProcessError:
      return False
