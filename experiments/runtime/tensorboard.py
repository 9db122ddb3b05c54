"""Scalars for TensorBoard, written at once and by the caller's thread."""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


class ScalarWriter:
  """An event file.

  Not tensorboardX's `SummaryWriter`: that writes in a thread, which ends when the disk is full, and
  then the program waits for it for ever; nor its `RecordWriter`, which waits for the disk itself.

  Args:
    directory: of the event files of a run.
    first_step: what earlier files have from this step on is no longer shown.
  """

  def __init__(self, directory: Path, first_step: int):
    directory.mkdir(exist_ok=True)
    name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}'
    self._file = (directory / name).open('ab')
    try:
      self._write(Event(file_version='brain.Event:2'))
      self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
    except OSError:
      self.close()
      raise

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Hands the values of one step to the operating system."""
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    self._write(Event(step=step, summary=Summary(value=values)))

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _write(self, event: Event) -> None:
    """Writes a record of a TFRecord file: length and data, each followed by its checksum."""
    event.wall_time = time.time()
    data = event.SerializeToString()
    length = struct.pack('<Q', len(data))
    for part in (length, data):
      self._file.write(part + struct.pack('<I', masked_crc32c(part)))
    self._file.flush()
