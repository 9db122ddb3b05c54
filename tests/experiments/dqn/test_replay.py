"""The replay memory against a list of everything that happened; its files."""

import collections
import tracemalloc

import numpy as np
import pytest

from experiments.dqn.journal import Journal
from experiments.dqn.replay import Replay, num_bytes
from experiments.runtime.errors import UserError

N = 3


def play(count, seed=0):
  """A made-up run: arguments of `Replay.add`, and every transition by (row, environment).

  Frames are black but for their first two pixels, row and environment. Games end at random, and one
  in five is cut off.
  """
  rng = np.random.default_rng(seed)
  rows, transitions = [], {}
  stacks, ages = [collections.deque(maxlen=4) for _ in range(N)], np.zeros(N, int)
  observations = []
  for row in range(count):
    frames = np.zeros((N, 84, 84), np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = row + 1, np.arange(N)
    for env in range(N):
      if ages[env] == 0:
        stacks[env].extend(np.zeros((4, 84, 84), np.uint8))
      stacks[env].append(frames[env])
    observations.append([np.stack(stack) for stack in stacks])
    actions, rewards = rng.integers(18, size=N), rng.integers(-30, 30, size=N)
    is_over = rng.random(N) < 0.15
    truncated = is_over & (rng.random(N) < 0.2)
    terminal = (is_over | (rng.random(N) < 0.1)) & ~truncated
    rows.append((frames, ages, actions, rewards, terminal, truncated))
    ages = np.where(is_over, 0, ages + 1)
  for row in range(count - 1):
    _, _, actions, rewards, terminal, truncated = rows[row]
    for env in np.flatnonzero(~truncated):
      reward, discount = np.sign(rewards[env]), 1.0 - terminal[env]
      s_tm1, s_t = observations[row][env], observations[row + 1][env]
      transitions[row, env] = (s_tm1, actions[env], reward, discount, s_t)
  return rows, transitions


def fill(rows, capacity):
  replay = Replay(capacity, N)
  for row in rows:
    replay.add(*row)
  return replay


def stack(frames, ages):
  """Observations from a sampled batch, frame by frame."""
  result = np.zeros((len(frames), 4, 84, 84), np.uint8)
  for i, age in enumerate(ages):
    for back in range(4):
      if back <= age:
        result[i, 3 - back] = frames[i, 3 - back]
  return result


@pytest.mark.parametrize(
  'count, capacity, first',
  [
    (30, 50, 0),  # not full
    (50, 50, 0),  # just full
    (51, 50, 4),  # the first one was written over: three rows lack frames
    (170, 50, 123),  # around more than three times
  ],
)
def test_sampled_transitions_are_those_that_happened(count, capacity, first):
  rows, transitions = play(count)
  batch = fill(rows, capacity).sample(np.random.default_rng(0), 3, 500)
  assert batch.frames.shape == (3, 500, 5, 84, 84) and batch.ages.shape == (3, 500, 2)
  batch = type(batch)(*(x.reshape(-1, *x.shape[2:]) for x in batch))
  s_tm1 = stack(batch.frames[:, :4], batch.ages[:, 0])
  s_t = stack(batch.frames[:, 1:], batch.ages[:, 1])
  seen = set()
  for i, state in enumerate(s_tm1):
    key = (state[-1, 0, 0] - 1, state[-1, 0, 1])
    expected, action, reward, discount, next_state = transitions[key]
    np.testing.assert_array_equal(state, expected)
    assert (batch.a_tm1[i], batch.r_t[i], batch.discount_t[i]) == (action, reward, discount)
    if discount:  # else it counts for nothing
      np.testing.assert_array_equal(s_t[i], next_state)
    seen.add(key)
  assert seen == {key for key in transitions if key[0] >= first}  # and no truncated one
  assert any(discount == 0 for _, _, _, discount, _ in transitions.values())


def test_transitions_are_drawn_uniformly():
  rows, transitions = play(40)
  replay = fill(rows, 15)
  possible = [key for key in transitions if key[0] >= 28]
  rng, counts, draws = np.random.default_rng(1), collections.Counter(), 0
  for _ in range(40):
    newest = replay.sample(rng, 1, 500).frames[0, :, 3]
    counts.update(zip(newest[:, 0, 0] - 1, newest[:, 0, 1]))
    draws += len(newest)
  expected = draws / len(possible)
  chi_square = sum((counts[key] - expected) ** 2 / expected for key in possible)
  assert sum(counts.values()) == draws == sum(counts[key] for key in possible)
  # Mean of the statistic: degrees of freedom; its standard deviation: √(2 × that).
  assert chi_square < len(possible) + 5 * np.sqrt(2 * len(possible))


def test_samples_depend_on_the_generator_alone():
  replay = fill(play(30)[0], 50)
  first, same, other = (replay.sample(np.random.default_rng(s), 1, 20) for s in (1, 1, 2))
  np.testing.assert_array_equal(first.frames, same.frames)
  assert (first.frames != other.frames).any()


def sample(replay):
  return replay.sample(np.random.default_rng(0), 2, 50)


@pytest.mark.parametrize('stop', [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize('keep', [1, 2])
def test_memory_and_games_come_back_from_files(tmp_path, stop, keep):
  """Saves every 12 rows; a run goes on after each, also when a later part of it was lost.

  As when it is killed after a `save` and before there is a checkpoint for it.
  """
  rows, _ = play(90)
  replay = Replay(25, N)
  journal = Journal(tmp_path, replay, num_envs=N, keep=keep)
  expected = None
  for count, row in enumerate(rows, start=1):
    replay.add(*row)
    if count % 12 == 0:
      journal.save({'count': np.array(count)})
    if count == 12 * stop:
      expected = sample(replay)
    if count == 12 * stop + 15:  # one more file, and three rows that are in none
      break
  again = Replay(25, N)
  journal = Journal(tmp_path, again, num_envs=N, keep=keep)
  assert journal.restore(12 * stop * N)['count'] == 12 * stop
  assert again.count == 12 * stop
  for a, b in zip(sample(again), expected):
    np.testing.assert_array_equal(a, b)
  for row in rows[12 * stop : 12 * stop + 12]:  # it goes on, and can be restored again
    again.add(*row)
  journal.save({'count': np.array(again.count)})
  third = Replay(25, N)
  Journal(tmp_path, third, num_envs=N, keep=keep).restore(12 * (stop + 1) * N)
  for a, b in zip(sample(third), sample(again)):
    np.testing.assert_array_equal(a, b)


def test_files_of_rows_that_are_no_longer_needed_are_removed(tmp_path):
  replay = Replay(25, N)
  journal = Journal(tmp_path, replay, num_envs=N, keep=2)
  for count, row in enumerate(play(120)[0], start=1):
    replay.add(*row)
    if count % 10 == 0:
      journal.save({})
  # Of 120 rows there may be no checkpoint yet; the one before last, of 100, needs rows 75 to 99.
  kept = {path.stem for path in tmp_path.iterdir()}
  assert kept == {str(N * end) for end in (80, 90, 100, 110, 120)}


def test_restoring_takes_no_more_memory_than_one_file(tmp_path):
  replay = Replay(400, N)
  journal = Journal(tmp_path, replay, num_envs=N, keep=2)
  row = play(1)[0][0]
  for count in range(1, 401):
    replay.add(*row)
    if count % 100 == 0:
      journal.save({})
  again = Replay(400, N)
  tracemalloc.start()
  Journal(tmp_path, again, num_envs=N, keep=2).restore(400 * N)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 1.5 * num_bytes(100 * N)


@pytest.mark.parametrize('damage', ['missing', 'cut off'])
def test_a_damaged_file_is_named(tmp_path, damage):
  replay = Replay(25, N)
  journal = Journal(tmp_path, replay, num_envs=N, keep=2)
  for count, row in enumerate(play(30)[0], start=1):
    replay.add(*row)
    if count % 10 == 0:
      journal.save({})
  path = tmp_path / f'{20 * N}.npz'
  if damage == 'missing':
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(UserError, match=rf'cannot read .*{path.name} .*restore it'):
    Journal(tmp_path, Replay(25, N), num_envs=N, keep=2).restore(30 * N)
