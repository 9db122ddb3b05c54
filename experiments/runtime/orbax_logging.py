"""Silences what orbax prints about errors that it also raises.

The user gets one line for a bad checkpoint. orbax also logs its traceback, and leaves futures
behind that asyncio and tensorstore report one by one.
"""

import logging
import sys


def install() -> None:
  """Filters these messages for the rest of the process."""
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').addFilter(
    lambda record: 'exception was never retrieved' not in record.getMessage()
  )
  hook = sys.unraisablehook

  def without_orbax(unraisable) -> None:
    """Skips the coroutines and the event loop that were waiting when another part failed."""
    code = getattr(unraisable.object, 'cr_code', None)
    if not (
      (code and 'orbax' in code.co_filename) or str(unraisable.exc_value) == 'Event loop is closed'
    ):
      hook(unraisable)

  sys.unraisablehook = without_orbax
