"""Handling of SIGINT and SIGTERM.

Outside `deferred` a signal ends the program at once. Inside, it is recorded, and the training loop
writes a checkpoint after the current step. If that takes too long, the program ends without one.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from experiments.runtime.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS = 25.0  # to write a checkpoint; Slurm and preemptible machines kill after 30
_TWICE = 1.0  # seconds in which terminals, srun and schedulers may repeat a signal
_STOP_WATCHING = b'\0'  # no signal has this number


class Pending:
  """The signals received inside `deferred`."""

  def __init__(self):
    self.signum: int | None = None  # of the first signal

  def note(self, signum: int, frame: FrameType | None = None) -> None:
    """Signal handler."""
    del frame
    self.signum = self.signum or signum

  def check(self) -> None:
    """Raises `Interrupted` if a signal was received."""
    if self.signum is not None:
      raise Interrupted(self.signum)


_pending = Pending()  # of the innermost `deferred`
_installed = False


def check() -> None:
  """Raises `Interrupted` if a signal was received. For use between the parts of an evaluation."""
  _pending.check()


def signum() -> int | None:
  """Number of the first signal inside `deferred`, or None."""
  return _pending.signum


def install() -> None:
  """Makes both signals end the program with one line, unless it was started to ignore them.

  A handler that raises would not do: in a callback of JAX or of the garbage collector, exceptions
  are lost.
  """
  global _installed
  _installed = True
  for signum in SIGNALS:
    if signal.getsignal(signum) is not signal.SIG_IGN:
      signal.signal(signum, lambda signum, frame: _end(Interrupted(signum)))


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
  """Records signals. The caller checks `signum` between steps and stops within `SECONDS`.

  After that time, or at a SIGINT more than a second after the first signal, the process is ended,
  even inside compiled code, where Python's handlers do not run. Further SIGTERMs are ignored, as
  schedulers repeat them. A process without `install`, such as a notebook, is never ended.

  Does nothing outside the main thread, where Python has no signal handlers.

  Raises:
    Interrupted: on exit, if a signal was received.
  """
  global _pending
  if threading.current_thread() is not threading.main_thread():
    yield Pending()
    return
  outer, pending = _pending, Pending()
  _pending = pending
  handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
  for signum, handler in handlers.items():
    if handler is not signal.SIG_IGN:
      signal.signal(signum, pending.note)
  try:
    with _watched() if _installed else contextlib.nullcontext():
      yield pending
    pending.check()
  finally:
    for signum, handler in handlers.items():
      signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
    _pending = outer


@contextlib.contextmanager
def _watched() -> Iterator[None]:
  """Starts a thread that sees the signals as well."""
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  watcher = threading.Thread(target=_watch, args=(reader,), name='interrupts', daemon=True)
  watcher.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    os.write(writer, _STOP_WATCHING)
    watcher.join()
    os.close(reader)
    os.close(writer)


def _watch(reader: int) -> None:
  """Reads signal numbers as they arrive, and ends the process if the main thread does not."""
  first: tuple[int, float] | None = None  # signal, time
  while True:
    left = None if first is None else max(0.0, first[1] + SECONDS - time.monotonic())
    if first and not select.select([reader], [], [], left)[0]:
      _end(Interrupted(first[0], f'after {SECONDS:.0f} s without a checkpoint'))
    number = os.read(reader, 1)
    if number == _STOP_WATCHING:
      return
    if number[0] not in SIGNALS:
      continue
    if first is None:
      first = number[0], time.monotonic()
    elif number[0] == signal.SIGINT and time.monotonic() > first[1] + _TWICE:
      _end(Interrupted(first[0], 'without a checkpoint'))


def _end(error: Interrupted) -> NoReturn:
  with contextlib.suppress(RuntimeError):  # the signal came during a print
    sys.stdout.flush()
  os.write(2, f'{error}\n'.encode())
  os._exit(error.code)
