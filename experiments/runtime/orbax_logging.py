"""Keeps orbax from printing what it also raises: errors of reading and writing checkpoints.

An error of a checkpoint reaches the user as one line. orbax logs it as well, with its traceback,
and then leaves futures behind that asyncio and tensorstore report one by one.
"""

import logging
import sys


def install() -> None:
  """Does so for the rest of the process."""
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').addFilter(
    lambda record: 'exception was never retrieved' not in record.getMessage()
  )
  hook = sys.unraisablehook

  def without_orbax(unraisable) -> None:
    """Its coroutines, and its event loop, that waited for other parts when one failed."""
    code = getattr(unraisable.object, 'cr_code', None)
    if not (
      (code and 'orbax' in code.co_filename) or str(unraisable.exc_value) == 'Event loop is closed'
    ):
      hook(unraisable)

  sys.unraisablehook = without_orbax
