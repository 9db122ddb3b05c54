"""Reads step times, for curves against time."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.results import Run
from experiments.runtime.errors import UserError


def read(path: Path, runs: Sequence[Run]) -> dict[str, float]:
  """Variant → median seconds of a training step, from `python -m scripts.benchmark cifar`.

  More accurate than the time of runs that shared the machine with other work.

  Raises:
    UserError: the file is missing or damaged, or has no row for the size of a run.
  """
  try:
    rows = [row for row in json.loads(path.read_text())['rows'] if row['framework'] == 'jax']
    seconds = {}
    for run in runs:
      model = run.config['model']
      mode = 'winograd' if run.config['run']['cpu_winograd'] else 'direct'
      size = (run.variant, model['dtype'], mode, model['width'], run.config['batch_size'])
      matching = (
        row['seconds']
        for row in rows
        if tuple(row[key] for key in ('variant', 'dtype', 'mode', 'width', 'batch')) == size
      )
      seconds[run.variant] = next(matching)
  except FileNotFoundError as error:
    raise UserError(f'there is no file {path}; python -m scripts.benchmark writes it.') from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} holds no step times from python -m scripts.benchmark.') from error
  except StopIteration as error:
    raise UserError(f'{path} has no step time for {", ".join(map(str, size))}.') from error
  return seconds
