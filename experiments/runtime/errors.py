"""Mistakes that a user can mend: reported in one line, with exit code 2 and no traceback."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
  """Its message says in one line what is wrong and what to do about it."""


class Interrupted(KeyboardInterrupt):
  """A signal asked the process to end; what it did can go on later.

  Args:
    signum: number of the signal.
    where: 'at step 7', for the message.

  Attributes:
    signum: number of the signal.
    code: exit code of the process, as shells have it.
  """

  def __init__(self, signum: int, where: str = ''):
    super().__init__(signum, where)
    self.signum = signum
    self.code = 128 + signum
    self._where = where

  def __str__(self) -> str:
    parts = ['stopped', self._where, f'by {signal.Signals(self.signum).name}']
    return f'{" ".join(filter(None, parts))}; the same command goes on.'


def user_path(text: Path | str) -> Path:
  """A path as a user gives it, relative or with ~, made absolute."""
  return Path(os.path.abspath(os.path.expanduser(text)))


class ArgumentParser(argparse.ArgumentParser):
  """Shows its description as it is written, and reports a mistake as a `UserError`.

  Call `parse_args` inside `one_line_errors`.
  """

  def __init__(self, description: str, prog: str):
    super().__init__(
      description=description,
      prog=prog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Called by argparse."""
    raise UserError(f'{message}; see {self.prog} --help.')


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
  """Turns an error of the file system into one that names the file; gives its path.

  Raises:
    UserError: the operating system refused something inside.
  """
  try:
    yield path
  except OSError as error:
    raise UserError(
      f'cannot write {path} ({error.strerror or error}); mend this and run the same command again '
      'to go on.'
    ) from error


def check_not_replaced(path: Path, descriptor: int) -> None:
  """Checks that a file or directory is still the one that the run began with.

  Args:
    path: where it should be.
    descriptor: of the one that the run began with, which is open: its inode is not given away.

  Raises:
    UserError: there is none, or another; perhaps of another run.
  """
  try:
    same = os.path.samestat(path.stat(), os.fstat(descriptor))
  except FileNotFoundError:
    same = False
  if not same:
    raise UserError(
      f'{path} was deleted, moved or replaced during the run, which ends here; run the same '
      'command again to go on from what is there.'
    )


def check_links(directory: Path) -> None:
  """Checks that nothing in the directory of a run, which may come from anybody, leads out of it.

  Raises:
    UserError: a link does; to read or write it would be to read or write another file.
  """
  root = directory.resolve()
  for path in directory.rglob('*'):
    if path.is_symlink() and not path.resolve().is_relative_to(root):
      raise UserError(
        f'{path} is a link that leads out of the run; put what it means in its place.'
      )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns a `UserError`, a full disk or the like, and a lack of memory into one line and code 2."""
  try:
    yield
  except UserError as error:
    _fail(str(error))
  except (MemoryError, RuntimeError) as error:  # Python's and NumPy's, JAX's
    if isinstance(error, RuntimeError) and 'Out of memory' not in str(error):
      raise
    size = re.search(r'[\d.,]+ (bytes|[KMGTPE]iB)', str(error))
    when = f' when {size[0]} were asked for' if size else ''
    _fail(
      f'out of memory{when}; make the network or config.batch_size smaller, or use a machine with '
      'more.'
    )
  except OSError as error:
    if error.strerror is None:  # not from the operating system
      raise
    where = f': {error.filename}' if error.filename else ''
    _fail(f'{error.strerror}{where}. Mend this and run the same command again to go on.')
  except KeyboardInterrupt as error:
    if not isinstance(error, Interrupted):
      error = Interrupted(signal.SIGINT)
    print(error, file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Not sys.exit: threads of XLA and orbax may be at work, and crash when Python is taken down.
    os._exit(error.code)


def _fail(message: str) -> None:
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)
