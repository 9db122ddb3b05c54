"""The replay memory: stores each frame once and assembles observations when sampling.

All environments step together, so one row holds a frame, an action and its result for each of them,
and one cursor marks the newest row.
"""

from typing import NamedTuple

import numpy as np

from experiments.dqn.agent import Batch
from experiments.dqn.network import SIDE, STACK


class Row(NamedTuple):
  """One agent step in each of N environments, or T rows of them in arrays [T, N, ...].

  Attributes:
    frames: [N, 84, 84] uint8, the newest frame when the action was chosen.
    ages: [N] agent steps since the episode began, capped at 3: an observation has four frames.
    actions: [N] uint8.
    rewards: [N] int8, clipped to −1 … 1.
    terminal: [N] bool, whether a life or the game was lost in this step.
    truncated: [N] bool, whether the episode was cut off here; the next state is unknown.
  """

  frames: np.ndarray
  ages: np.ndarray
  actions: np.ndarray
  rewards: np.ndarray
  terminal: np.ndarray
  truncated: np.ndarray


class Replay:
  """The newest rows of a run.

  Args:
    capacity: in rows. The system allocates their memory when they are first written.
    num_envs: N.

  Attributes:
    count: number of rows ever added.
  """

  def __init__(self, capacity: int, num_envs: int):
    self.capacity = capacity
    self.count = 0
    shape = (capacity, num_envs)
    self._rows = Row(
      frames=np.zeros((*shape, SIDE, SIDE), np.uint8),
      ages=np.zeros(shape, np.uint8),
      actions=np.zeros(shape, np.uint8),
      rewards=np.zeros(shape, np.int8),
      terminal=np.zeros(shape, bool),
      truncated=np.zeros(shape, bool),
    )

  def add(
    self,
    frames: np.ndarray,
    ages: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminal: np.ndarray,
    truncated: np.ndarray,
  ) -> None:
    """Adds a row, over the oldest one if the memory is full; arguments as in `Row`.

    Ages and rewards are clipped here.
    """
    ages, rewards = np.minimum(ages, STACK - 1), np.clip(rewards, -1, 1)
    row = Row(frames, ages, actions, rewards, terminal, truncated)
    for array, value in zip(self._rows, row):
      array[self.count % self.capacity] = value
    self.count += 1

  def sample(self, rng: np.random.Generator, batches: int, batch_size: int) -> Batch:
    """Draws complete transitions uniformly, with replacement.

    This leaves out the newest row, whose next frame is missing; in a full memory the oldest three,
    whose earlier frames are overwritten; and steps where an episode was cut off.

    Returns:
      Arrays [batches, batch_size, ...].
    """
    oldest = max(0, self.count - self.capacity)
    first = oldest + STACK - 1 if oldest else 0
    size = batches * batch_size
    rows, envs = self._draw(rng, first, size)
    while (unknown := self._rows.truncated[rows, envs]).any():
      rows[unknown], envs[unknown] = self._draw(rng, first, unknown.sum())
    # The frames of s_tm1 are those of the rows t−3 … t, the frames of s_t those of t−2 … t+1.
    window = (rows[:, None] + np.arange(1 - STACK, 2)) % self.capacity
    pairs = ((rows[:, None] + np.arange(2)) % self.capacity, envs[:, None])  # s_tm1 and s_t
    batch = Batch(
      frames=self._rows.frames[window, envs[:, None]],
      ages=self._rows.ages[pairs],
      a_tm1=self._rows.actions[rows, envs].astype(np.int32),
      r_t=self._rows.rewards[rows, envs].astype(np.float32),
      discount_t=1 - self._rows.terminal[rows, envs].astype(np.float32),
    )
    return Batch(*(array.reshape(batches, batch_size, *array.shape[1:]) for array in batch))

  def _draw(self, rng: np.random.Generator, first: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` random places in the arrays, in rows from `first` to the last but one."""
    rows = rng.integers(first, self.count - 1, size) % self.capacity
    return rows, rng.integers(0, self._rows.frames.shape[1], size)

  def newest(self, count: int) -> Row:
    """Copies of the newest `count` rows [count, N, ...], oldest first."""
    places = np.arange(self.count - count, self.count) % self.capacity
    return Row(*(array[places] for array in self._rows))

  def put(self, first: int, rows: Row) -> None:
    """Writes rows [T, N, ...] back as the rows `first` to first + T − 1 of the run."""
    places = np.arange(first, first + len(rows.frames)) % self.capacity
    for array, values in zip(self._rows, rows):
      array[places] = values
    self.count = first + len(places)


def num_bytes(capacity: int) -> int:
  """Bytes of memory for `capacity` agent steps."""
  return capacity * (SIDE * SIDE + 5)
