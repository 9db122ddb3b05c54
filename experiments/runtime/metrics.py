"""Metrics of a run: rows in `metrics.jsonl`, TensorBoard events, and what the terminal shows."""

import contextlib
import contextvars
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tqdm
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from experiments.runtime.errors import UserError, check_not_replaced, writing

Row = dict[str, Any]


class MetricsLog:
  """Writes rows of metrics, one JSON object per line, and the same scalars to TensorBoard.

  A row has `step`, `epoch` (fractional), `seconds` of training, and metrics such as `train/loss`. A
  resumed run drops the rows after its checkpoint and writes them again.

  tensorboardX's `SummaryWriter` would not do: its thread dies when the disk is full, and then the
  program hangs.

  Args:
    workdir: directory of the run.
    resume_step: step of the last row to keep; 0 for a new run.
    evaluated: whether to keep the row of an evaluation at that step too.

  Raises:
    UserError: rows up to `resume_step` are damaged or missing.
  """

  def __init__(self, workdir: Path, resume_step: int = 0, *, evaluated: bool = True):
    self._path = path = workdir / 'metrics.jsonl'
    rows = read_rows(path)
    last = [row for row in rows if row['step'] == resume_step]
    rows = [row for row in rows if row['step'] < resume_step] + (last if evaluated else last[:1])
    if (rows[-1]['step'] if rows else 0) != resume_step:
      raise UserError(
        f'{path} lacks the rows up to step {resume_step}, which the latest checkpoint needs; '
        'restore it, or choose another --workdir.'
      )
    with writing(path), contextlib.ExitStack() as stack:
      temporary = path.with_suffix('.jsonl.tmp')
      temporary.write_text(''.join(json.dumps(row) + '\n' for row in rows))
      os.replace(temporary, path)
      self._file = stack.enter_context(path.open('a'))
      self._events = stack.enter_context(contextlib.closing(_Events(workdir, resume_step)))
      # TensorBoard hides what earlier files have from this step on.
      self._events.write(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
      self._open = stack.pop_all()
    self._start = time.monotonic() - (rows[-1]['seconds'] if rows else 0.0)

  @property
  def seconds(self) -> float:
    """Seconds of training, summed over all sessions of the run."""
    return time.monotonic() - self._start

  def write(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
    """Appends a row and flushes it. Raises `UserError` if that fails or the file was replaced."""
    check_not_replaced(self._path, self._file.fileno())
    row = {'step': step, 'epoch': round(epoch, 6), 'seconds': round(self.seconds, 3), **metrics}
    values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
    with writing(self._path):
      self._file.write(json.dumps(row, allow_nan=False) + '\n')
      self._file.flush()
      self._events.write(step=step, summary=Summary(value=values))

  def sync(self) -> None:
    """Waits until the rows are on disk, where they survive a loss of power. Raises as `write`."""
    check_not_replaced(self._path, self._file.fileno())
    with writing(self._path):
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the files."""
    with writing(self._path):
      self._open.close()


def write_pictures(workdir: Path, step: int) -> None:
  """Writes the pictures that a run has made to TensorBoard, too."""
  values = []
  for path in sorted([*workdir.glob('*.png'), *workdir.glob('*.gif')]):
    with Image.open(path) as image:
      width, height = image.size
    picture = Summary.Image(
      width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
    )
    values.append(Summary.Value(tag=f'pictures/{path.stem}', image=picture))
  with writing(workdir / 'tensorboard'), contextlib.closing(_Events(workdir, step)) as events:
    events.write(step=step, summary=Summary(value=values))


class _Events:
  """A new file of TensorBoard's events."""

  def __init__(self, workdir: Path, step: int):
    (workdir / 'tensorboard').mkdir(exist_ok=True)
    name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}'
    self._writer = RecordWriter(str(workdir / 'tensorboard' / f'{name}.{step}'))
    with contextlib.ExitStack() as stack:
      stack.callback(self._writer.close)
      self.write(file_version='brain.Event:2')
      stack.pop_all()

  def write(self, **fields: Any) -> None:
    self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class NoLog(MetricsLog):
  """A log that writes nothing, for all processes of a run but the first."""

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
  """Reads a `metrics.jsonl`; a truncated last line is ignored.

  Raises:
    UserError: any other line is not a row.
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
      raise UserError(f'{path}, line {number}: not a row of metrics; restore or remove the file.')
    rows.append(row)
  return rows


def _is_row(value: Any) -> bool:
  types = {'step': int, 'epoch': int | float, 'seconds': int | float}
  return isinstance(value, dict) and all(isinstance(value.get(k), types[k]) for k in types)


_epoch_done: contextvars.ContextVar[Callable[[], object] | None]
_epoch_done = contextvars.ContextVar('epoch_done', default=None)


@contextlib.contextmanager
def in_silence(epoch_done: Callable[[], object]) -> Iterator[None]:
  """Has the runs inside print nothing of their progress, and call this after each epoch."""
  token = _epoch_done.set(epoch_done)
  try:
    yield
  finally:
    _epoch_done.reset(token)


class Progress:
  """Prints one line per epoch and, on a terminal, a progress bar below; none in `in_silence`."""

  def __init__(self, workdir: Path, total_steps: int, step: int, epochs: int):
    self._name = name = '/'.join(workdir.parts[-2:])
    self._epochs = epochs
    self._epoch_done = _epoch_done.get()
    self._bar = tqdm.tqdm(
      total=total_steps,
      initial=step,
      desc=name,
      unit='step',
      dynamic_ncols=True,
      disable=bool(self._epoch_done) or not sys.stderr.isatty(),
    )

  def step(self, count: int = 1) -> None:
    """Advances the bar by `count` steps."""
    self._bar.update(count)

  def show(self, metrics: Mapping[str, float]) -> None:
    """Shows the latest training metrics beside the bar."""
    self._bar.set_postfix_str(describe(metrics))

  def epoch(self, epoch: int, seconds: float, metrics: Mapping[str, float]) -> None:
    """Prints the line of a finished epoch."""
    if self._epoch_done:
      self._epoch_done()
      return
    line = f'{self._name}  epoch {epoch}/{self._epochs}  {describe(metrics)}  ({seconds:.0f} s)'
    self._bar.write(line)
    sys.stdout.flush()

  def close(self) -> None:
    """Closes the bar."""
    self._bar.close()


def describe(metrics: Mapping[str, float]) -> str:
  """'train/loss 0.2134  test/error 4.12 %': what a terminal shows of metrics."""
  shown = {name: value for name, value in metrics.items() if not is_part(name)}
  return '  '.join(
    f'{name} {100 * value:.2f} %' if name.endswith('/error') else f'{name} {value:.4g}'
    for name, value in shown.items()
  )


def is_part(name: str) -> bool:
  """Whether a metric is one of a group, such as 'test/kl_3', that the terminal does not show."""
  return name.startswith('diagnostics/') or re.search(r'_\d+$', name) is not None
