"""Runs the trials of a sweep to their end."""

import time
from collections.abc import Sequence

from scripts.sweep import trials as trials_lib
from scripts.sweep.display import Display
from scripts.sweep.executors import Executor
from scripts.sweep.trials import Trial


def watch(
  trials: Sequence[Trial], left: Sequence[Trial], executor: Executor, display: Display
) -> list[Trial]:
  """Runs the unfinished trials in `left`, and returns those that failed; shows all `trials`."""
  states = {trial.name: 'finished' for trial in trials}
  try:
    executor.submit(left)
    while True:
      for trial in left:
        state = executor.state(trial)
        if state == 'ended':
          state = 'finished' if trials_lib.is_finished(trial) else 'failed'
        states[trial.name] = state
      display.show(states)
      if {states[trial.name] for trial in left} <= {'finished', 'failed'}:
        return [trial for trial in left if states[trial.name] == 'failed']
      time.sleep(executor.poll_seconds)
  except KeyboardInterrupt:
    executor.interrupt()
    raise
