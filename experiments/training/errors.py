"""Mistakes that a user can mend: reported in one line, with exit code 2 and no traceback."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn


class UserError(Exception):
  """Its message says in one line what is wrong and what to do about it."""


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
def one_line_errors() -> Iterator[None]:
  """Turns a `UserError`, or an error of the file system, into one line and exit code 2."""
  try:
    yield
  except UserError as error:
    _fail(str(error))
  except OSError as error:
    if error.strerror is None:  # not from the operating system
      raise
    where = f': {error.filename}' if error.filename else ''
    _fail(f'{error.strerror}{where}. Mend this and run the same command again to go on.')
  except KeyboardInterrupt:
    print('interrupted; run the same command again to go on.', file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Not sys.exit: threads of XLA and orbax may be at work, and crash when Python is taken down.
    os._exit(130)


def _fail(message: str) -> None:
  print(f'error: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)
