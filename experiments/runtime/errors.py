"""Errors that a user can fix: reported in one line, with exit code 2 and no traceback."""

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
  """An error whose message says in one line what is wrong and how to fix it."""


class Interrupted(KeyboardInterrupt):
  """A signal stopped the process, e.g. 'at step 7'; its work can be resumed."""

  def __init__(self, signum: int, where: str = ''):
    super().__init__(signum, where)
    self.signum = signum
    self.code = 128 + signum  # exit code, as shells have it
    self._where = where

  def __str__(self) -> str:
    parts = ['stopped', self._where, f'by {signal.Signals(self.signum).name}']
    return f'{" ".join(filter(None, parts))}; rerun the same command to resume.'


def user_path(text: Path | str) -> Path:
  """Expands ~ and makes a path absolute."""
  return Path(os.path.abspath(os.path.expanduser(text)))


class ArgumentParser(argparse.ArgumentParser):
  """Keeps the line breaks of its description; `parse_args` raises `UserError`."""

  def __init__(self, description: str, prog: str):
    super().__init__(
      description=description,
      prog=prog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Called by argparse for a mistake on the command line."""
    raise UserError(f'{message}; see {self.prog} --help.')


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
  """Yields `path`; turns an `OSError` inside into a `UserError` that names it."""
  try:
    yield path
  except OSError as error:
    raise UserError(
      f'cannot write {path} ({error.strerror or error}); fix this and rerun the same command to '
      'resume.'
    ) from error


def check_not_replaced(path: Path, descriptor: int) -> None:
  """Checks that `path` still is the file or directory that `descriptor` was opened for.

  Raises:
    UserError: it is gone, or another one, such as that of another run.
  """
  try:
    same = os.path.samestat(path.stat(), os.fstat(descriptor))
  except FileNotFoundError:
    same = False
  if not same:
    raise UserError(
      f'{path} was deleted, moved or replaced during the run; rerun the same command to resume '
      'from what is there now.'
    )


def check_links(directory: Path) -> None:
  """Checks that no symbolic link in a run, which may come from anybody, leads out of it.

  Raises:
    UserError: a link does.
  """
  root = directory.resolve()
  for path in directory.rglob('*'):
    if path.is_symlink() and not path.resolve().is_relative_to(root):
      raise UserError(
        f'{path} is a link that leads out of the run; replace it with what it points to.'
      )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns `UserError`, `OSError` and running out of memory into one line and exit code 2."""
  try:
    yield
  except UserError as error:
    _fail(str(error))
  except (MemoryError, RuntimeError) as error:  # Python's and NumPy's, JAX's
    if isinstance(error, RuntimeError) and 'Out of memory' not in str(error):
      raise
    size = re.search(r'[\d.,]+ (bytes|[KMGTPE]iB)', str(error))
    allocating = f' allocating {size[0]}' if size else ''
    _fail(
      f'out of memory{allocating}; reduce the network or config.batch_size, or use a machine with '
      'more memory.'
    )
  except OSError as error:
    if error.strerror is None:  # not from the operating system
      raise
    where = f': {error.filename}' if error.filename else ''
    _fail(f'{error.strerror}{where}; fix this and rerun the same command.')
  except KeyboardInterrupt as error:
    if not isinstance(error, Interrupted):
      error = Interrupted(signal.SIGINT)
    print(error, file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Not sys.exit: threads of XLA and orbax may be running, and crash when Python shuts down.
    os._exit(error.code)


def _fail(message: str) -> None:
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)
