"""What a long evaluation has measured so far, kept in a file so that it can go on."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path


class PartialResults:
  """The numbers of each part that is done, in a line of their own.

  Args:
    path: of the file.
    key: JSON values that say what is measured; lines with others do not count. With the checksum of
      a checkpoint rather than its step, and the digest of the data rather than their name: there
      may be another of that step, from a training in the same directory, and other data.

  Attributes:
    done: index of the first number of a part → its numbers.
  """

  def __init__(self, path: Path, key: Mapping[str, int | float | str]):
    self._key = dict(key)
    self.done: dict[int, list[float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
      with contextlib.suppress(ValueError):  # a line that was cut off
        row = json.loads(line)
        if {name: row.get(name) for name in key} == self._key:
          self.done[row['start']] = row['values']
    self._file = path.open('a')

  def add(self, start: int, values: list[float]) -> None:
    """Writes down the numbers of a part."""
    self.done[start] = values
    # A line break before it: the last line may have been cut off.
    self._file.write('\n' + json.dumps({**self._key, 'start': start, 'values': values}))
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
