"""Results of a long evaluation so far, kept in a file so that it can be resumed."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from experiments.runtime.errors import writing


class PartialResults:
  """The values of each finished part, one JSON line per part.

  Args:
    path: file of the lines.
    key: JSON values that identify the evaluation; other lines are ignored. Use the checksum of a
      checkpoint, not its step, and the digest of the data, not its name: others may share those.
  """

  def __init__(self, path: Path, key: Mapping[str, int | float | str]):
    self._path = path
    self._key = dict(key)
    self.done: dict[int, list[float]] = {}  # start index of a part → its values
    for line in path.read_text().splitlines() if path.exists() else []:
      with contextlib.suppress(ValueError):  # a truncated line
        row = json.loads(line)
        if {name: row.get(name) for name in key} == self._key:
          self.done[row['start']] = row['values']
    self._file = path.open('a')

  def add(self, start: int, values: list[float]) -> None:
    """Appends the values of a part."""
    self.done[start] = values
    # The line break comes first, as the last line may be truncated.
    line = '\n' + json.dumps({**self._key, 'start': start, 'values': values})
    with writing(self._path):
      self._file.write(line)
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    with writing(self._path):  # what is left to write, after an error
      self._file.close()
