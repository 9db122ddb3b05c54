"""Saves the replay memory and the games beside the checkpoints, each time only what is new.

A replay memory of a million frames takes 7 GB, too much to write with every checkpoint. `STEP.npz`
holds the games, and the rows since the previous file. It is written before the checkpoint of that
step and never changed, so a run killed at any moment finds all rows of its latest checkpoint.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from experiments.dqn.environments import Arrays
from experiments.dqn.replay import Replay, Row
from experiments.runtime.errors import UserError, writing

_ROWS, _GAMES = 'rows/', 'games/'


class Journal:
  """The replay files of one run.

  Args:
    directory: folder of the files.
    replay: the replay memory.
    num_envs: agent steps per row.
    keep: number of latest files that can be restored.
  """

  def __init__(self, directory: Path, replay: Replay, *, num_envs: int, keep: int):
    self._directory = directory
    self._replay = replay
    self._num_envs = num_envs
    self._keep = keep
    self._saved = 0  # rows of the run that are on disk

  def save(self, games: Arrays) -> None:
    """Writes the rows since the last `save` and the games; removes files no longer needed.

    Raises:
      UserError: the file cannot be written.
    """
    count = self._replay.count
    if count == self._saved:  # nothing was played since `restore`
      return
    first = max(self._saved, count - self._replay.capacity)
    rows = self._replay.newest(count - first)
    arrays = {f'{_ROWS}{name}': array for name, array in rows._asdict().items()}
    arrays |= {f'{_GAMES}{name}': array for name, array in games.items()}
    with writing(self._path(count)) as path:
      self._directory.mkdir(exist_ok=True)
      temporary = self._directory / 'tmp.npz'
      with temporary.open('wb') as file:
        np.savez(file, first=first, **arrays)
        os.fsync(file.fileno())  # `np.savez` flushed it
      os.replace(temporary, path)
    self._saved = count
    ends = self._ends()
    # One more than is kept, as the newest has no checkpoint yet.
    oldest = ends[-self._keep - 1 :][0] - self._replay.capacity
    for end in ends:
      if end <= oldest:
        self._path(end).unlink()

  def check(self, step: int) -> list[int]:
    """The last row of each file that `restore` would read, exclusive, latest first.

    Raises:
      UserError: a file is missing or damaged.
    """
    first = count = step // self._num_envs
    ends: list[int] = []
    while not ends or first > max(0, count - self._replay.capacity):
      ends.append(first)
      with self._reading(first) as arrays:
        if not 0 <= (start := int(arrays['first'])) < first:
          raise ValueError(f'its rows start at {start}')
      first = start
    return ends

  def restore(self, step: int) -> Arrays:
    """Restores the replay memory of the checkpoint at `step`; returns the games.

    Removes files of later steps, which a killed run left.

    Raises:
      UserError: a file is missing or damaged.
    """
    count = step // self._num_envs
    for end in self._ends():
      if end > count:
        self._path(end).unlink()
    # One file at a time: together they are as large as the memory itself.
    for end in reversed(self.check(step)):
      with self._reading(end) as arrays:
        self._replay.put(
          int(arrays['first']), Row(**{name: arrays[f'{_ROWS}{name}'] for name in Row._fields})
        )
        games = {name[len(_GAMES) :]: arrays[name] for name in arrays if name.startswith(_GAMES)}
    self._saved = count
    return games

  @contextlib.contextmanager
  def _reading(self, end: int) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of the file whose rows end before `end`, read lazily.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = self._path(end)
    try:
      with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
        yield arrays
    except Exception as error:  # the file system, zipfile, zlib and NumPy each raise their own
      reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
      raise UserError(
        f'cannot read {path} ({reason}), which the latest checkpoint needs; restore it or choose '
        'another --workdir.'
      ) from error

  def _path(self, end: int) -> Path:
    return self._directory / f'{end * self._num_envs}.npz'

  def _ends(self) -> list[int]:
    """The last row of each file, exclusive, in order."""
    steps = [int(path.stem) for path in self._directory.glob('*.npz') if path.stem.isdecimal()]
    return sorted(step // self._num_envs for step in steps)
