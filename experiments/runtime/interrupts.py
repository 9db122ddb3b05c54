"""SIGINT and SIGTERM, between the steps of a run.

Outside of `deferred` a signal ends the program at once. Inside, it is noted, for the training loop
to write a checkpoint before it ends. A program that does not come to that in time ends without.
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
SECONDS = 25.0  # from the first signal to the end; Slurm and preemptible machines give 30
_TWICE = 1.0  # seconds; terminals, srun and schedulers may send the same signal more than once
_STOP_WATCHING = b'\0'  # no signal has this number


class Pending:
  """What has arrived inside of `deferred`.

  Attributes:
    signum: number of the first signal, or None.
  """

  def __init__(self):
    self.signum: int | None = None

  def note(self, signum: int, frame: FrameType | None = None) -> None:
    """The handler of a signal."""
    del frame
    self.signum = self.signum or signum

  def check(self) -> None:
    """Raises `Interrupted` if a signal has arrived."""
    if self.signum is not None:
      raise Interrupted(self.signum)


_pending = Pending()  # of the innermost `deferred`
_installed = False


def check() -> None:
  """To be called between the parts of long work that can be done again, such as an evaluation.

  Raises:
    Interrupted: a signal has arrived inside of `deferred`.
  """
  _pending.check()


def signum() -> int | None:
  """Number of the first signal inside of `deferred`, or None."""
  return _pending.signum


def install() -> None:
  """Lets either signal end the program with one line, unless it was started to ignore the signal.

  Not by an exception: that is lost if it comes while JAX or Python calls back, as from the garbage
  collector, and then the program goes on.
  """
  global _installed
  _installed = True
  for signum in SIGNALS:
    if signal.getsignal(signum) is not signal.SIG_IGN:
      signal.signal(signum, lambda signum, frame: _end(Interrupted(signum)))


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
  """Notes signals, for the caller to look at `signum` between steps and to end within `SECONDS`.

  After that time, and at a SIGINT more than a second after the first signal, the process is ended,
  whatever it does: also inside compiled code, where Python's handlers do not run. A second SIGTERM
  changes nothing, as schedulers send it again before they kill. Not so in a process that is not a
  command of ours (that did not `install`), such as a notebook.

  Without effect outside of the main thread, where Python has no signals.

  Raises:
    Interrupted: at the end, if a signal has arrived that the caller has not seen.
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
  """Has a thread see the signals as well."""
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
  """Reads the numbers of signals as they arrive; ends the process if the main thread does not."""
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
  with contextlib.suppress(RuntimeError):  # the signal came while something was printed
    sys.stdout.flush()
  os.write(2, f'{error}\n'.encode())
  os._exit(error.code)
