"""Metrics of a run: rows in `metrics.jsonl`, TensorBoard events, and what the terminal shows."""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tqdm

from experiments.runtime.errors import UserError, check_not_replaced, writing
from experiments.runtime.tensorboard import ScalarWriter

Row = dict[str, Any]


class MetricsLog:
  """Writes rows of metrics, one JSON object a line, and the same to TensorBoard.

  A row has `step`, `epoch` (fractional), `seconds` of training so far, and names such as
  `train/loss`. A resumed run drops the rows after its checkpoint, as it will write them again.

  Args:
    workdir: directory of the run.
    resume_step: step of the checkpoint that the run goes on from; 0 for a new run.
    evaluated: whether an evaluation at that step, whose row follows that of training, was over.

  Raises:
    UserError: the rows up to that step are damaged or missing.
  """

  def __init__(self, workdir: Path, resume_step: int = 0, *, evaluated: bool = True):
    self._path = path = workdir / 'metrics.jsonl'
    rows = read_rows(path)
    last = [row for row in rows if row['step'] == resume_step]
    rows = [row for row in rows if row['step'] < resume_step] + (last if evaluated else last[:1])
    if (rows[-1]['step'] if rows else 0) != resume_step:
      raise UserError(
        f'{path} lacks the rows up to step {resume_step}, the step of the latest checkpoint; '
        'restore it, or choose another --workdir.'
      )
    with writing(path), contextlib.ExitStack() as stack:
      temporary = path.with_suffix('.jsonl.tmp')
      temporary.write_text(''.join(json.dumps(row) + '\n' for row in rows))
      os.replace(temporary, path)
      self._file = stack.enter_context(path.open('a'))
      tensorboard = ScalarWriter(workdir / 'tensorboard', resume_step + 1)
      self._tensorboard = stack.enter_context(contextlib.closing(tensorboard))
      self._open = stack.pop_all()
    self._start = time.monotonic() - (rows[-1]['seconds'] if rows else 0.0)

  @property
  def seconds(self) -> float:
    """Seconds of training, over all the times the run was resumed."""
    return time.monotonic() - self._start

  def write(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
    """Appends a row and hands it to the operating system, so that a killed process loses none.

    Raises:
      UserError: it cannot be written.
    """
    check_not_replaced(self._path, self._file.fileno())
    row = {'step': step, 'epoch': round(epoch, 6), 'seconds': round(self.seconds, 3), **metrics}
    with writing(self._path):
      self._file.write(json.dumps(row, allow_nan=False) + '\n')
      self._file.flush()
      self._tensorboard.write(step, metrics)

  def sync(self) -> None:
    """Waits until the rows are on the disk, so that not even a loss of power loses one.

    Raises:
      UserError: they cannot be written, or are not in the directory any more.
    """
    check_not_replaced(self._path, self._file.fileno())
    with writing(self._path):
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the files."""
    with writing(self._path):
      self._open.close()


class NoLog(MetricsLog):
  """A log that writes nothing: of all processes of a run but the first, which writes the rows."""

  def __init__(self, workdir: Path, resume_step: int = 0, *, evaluated: bool = True):
    del workdir, resume_step, evaluated
    self._start = time.monotonic()

  def write(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
    """Does nothing."""

  def sync(self) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


def read_rows(path: Path) -> list[Row]:
  """The rows of a `metrics.jsonl`; a last line that was cut off is left out.

  Raises:
    UserError: another line is not a row.
  """
  if not path.exists():
    return []
  rows = []
  lines = path.read_text(errors='replace').splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line)
    except ValueError as error:
      if number == len(lines):
        break
      raise UserError(f'{path}, line {number}: {error}; restore or remove the file.') from error
    if not _is_row(row):
      raise UserError(f'{path}, line {number}: no row of metrics; restore or remove the file.')
    rows.append(row)
  return rows


def _is_row(value: Any) -> bool:
  types = {'step': int, 'epoch': int | float, 'seconds': int | float}
  return isinstance(value, dict) and all(isinstance(value.get(k), types[k]) for k in types)


class Progress:
  """One line per epoch and, on a terminal, a bar with the time left below it."""

  def __init__(self, workdir: Path, total_steps: int, step: int, epochs: int):
    self._name = name = '/'.join(workdir.parts[-2:])
    self._epochs = epochs
    self._bar = tqdm.tqdm(
      total=total_steps,
      initial=step,
      desc=name,
      unit='step',
      dynamic_ncols=True,
      disable=not sys.stderr.isatty(),
    )

  def step(self, count: int = 1) -> None:
    """So many steps were taken."""
    self._bar.update(count)

  def show(self, metrics: Mapping[str, float]) -> None:
    """Shows the newest training metrics beside the bar."""
    self._bar.set_postfix_str(_values(metrics))

  def epoch(self, epoch: int, seconds: float, metrics: Mapping[str, float]) -> None:
    """Prints a line: an epoch is over."""
    line = f'{self._name}  epoch {epoch}/{self._epochs}  {_values(metrics)}  ({seconds:.0f} s)'
    self._bar.write(line)
    sys.stdout.flush()

  def close(self) -> None:
    """Takes the bar off the screen, leaving its last state."""
    self._bar.close()


def _values(metrics: Mapping[str, float]) -> str:
  shown = {name: value for name, value in metrics.items() if not is_part(name)}
  return '  '.join(f'{name} {value:.4g}' for name, value in shown.items())


def is_part(name: str) -> bool:
  """Whether a metric is one of many, such as 'test/kl_3': too many for a line of a terminal."""
  return name.startswith('diagnostics/') or re.search(r'_\d+$', name) is not None
