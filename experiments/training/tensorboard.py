"""Scalars for TensorBoard, written at once and by the caller's thread."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

_FLUSH_SECONDS = 10.0


class ScalarWriter:
  """An event file.

  Not tensorboardX's `SummaryWriter`: that writes in a thread, which ends when the disk is full, and
  then the program waits for it for ever.

  Args:
    directory: of the event files of a run.
    first_step: what earlier files have from this step on is no longer shown.
  """

  def __init__(self, directory: Path, first_step: int):
    directory.mkdir(exist_ok=True)
    self._events = EventsWriter(str(directory / 'events'))
    self._next_flush = time.monotonic()
    self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes values of one step."""
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    self._write(Event(step=step, summary=Summary(value=values)))

  def close(self) -> None:
    """Writes out what is buffered."""
    self._events.close()

  def _write(self, event: Event) -> None:
    event.wall_time = time.time()
    self._events.write_event(event)
    if time.monotonic() >= self._next_flush:  # not each time: it waits for the disk
      self._events.flush()
      self._next_flush = time.monotonic() + _FLUSH_SECONDS
