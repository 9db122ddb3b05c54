"""Games of the Arcade Learning Environment: preprocessing, ends of games, lives, going back."""

import itertools
import types

import ale_py
import cv2
import numpy as np
import pytest
from ale_py import roms

from experiments.dqn import environments
from experiments.dqn.environments import Games, Purpose
from experiments.runtime.errors import UserError


def make(game='breakout', num_envs=2, max_frames=108_000, repeat_action_probability=0.0):
  return environments.make(
    game,
    num_envs,
    max_frames=max_frames,
    repeat_action_probability=repeat_action_probability,
  )


class Emulator:
  """One game by the single-game interface, with the preprocessing written in NumPy and OpenCV."""

  def __init__(self, game, seed):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    self.ale = ale_py.ALEInterface()
    self.ale.setInt('random_seed', seed)
    self.ale.setFloat('repeat_action_probability', 0.0)
    self.ale.loadROM(roms.get_rom_path(game))
    self.actions = self.ale.getMinimalActionSet()

  def start(self, noops):
    """A new game; → its first observation."""
    self.ale.reset_game()
    screens = [self.ale.getScreenGrayscale()]
    for _ in range(noops):
      self.ale.act(0)
      screens.append(self.ale.getScreenGrayscale())
    self.stack = [np.zeros((84, 84), np.uint8)] * 3 + [self.frame(screens[-1:])]
    return np.stack(self.stack)

  def step(self, action):
    """→ observation, reward, whether the game is over."""
    reward, screens = 0, []
    for _ in range(4):
      reward += self.ale.act(self.actions[action])
      screens.append(self.ale.getScreenGrayscale())
      if self.ale.game_over():
        break
    self.stack = [*self.stack[1:], self.frame(screens[-2:])]
    return np.stack(self.stack), reward, self.ale.game_over()

  @staticmethod
  def frame(screens):
    return cv2.resize(np.max(screens, axis=0), (84, 84), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize('game', ['breakout', 'space_invaders'])
def test_preprocessing_is_that_of_an_independent_implementation(game):
  env, emulator = make(game, 1), Emulator(game, 5)
  observations, info = env.reset(seed=np.array([5]))
  expected = emulator.start(int(info['frame_number'][0]))
  np.testing.assert_array_equal(observations[0], expected)
  rng, scored = np.random.default_rng(0), 0
  for step in range(400):
    action = rng.integers(len(emulator.actions))
    observations, rewards, terminated, _, info = env.step(np.array([action]))
    expected, reward, is_over = emulator.step(action)
    assert (rewards[0], terminated[0]) == (reward, is_over)
    scored += reward
    if is_over:
      np.testing.assert_array_equal(info['final_obs'][0], expected)
      expected = emulator.start(int(info['episode_frame_number'][0]))
    np.testing.assert_array_equal(observations[0], expected, err_msg=f'step {step}')
  assert scored and observations.std() > 0


def test_games_begin_with_up_to_29_frames_without_an_action():
  env = make(num_envs=8, max_frames=8)
  _, info = env.reset(seed=np.arange(8))
  counts = [info['episode_frame_number']]
  for _ in range(60):
    _, _, _, truncated, info = env.step(np.zeros(8, np.int64))
    counts.append(info['episode_frame_number'][truncated])
  counts = np.concatenate(counts)
  assert len(counts) > 200
  assert counts.max() == 29 and len(np.unique(counts)) > 20


def random_steps(games, count, seed=0):
  """Plays; → what `receive` returned, with observations and ages after it."""
  rng = np.random.default_rng(seed)
  results = []
  for _ in range(count):
    games.send(rng.integers(4, size=len(games.ages)))
    results.append((games.receive(), games.observations, games.ages))
  return results


def test_ends_of_games_and_lives():
  """Breakout has five lives; each is lost once a game."""
  env = make()
  games = Games(env, seed=3, reseed_every=1000)
  reference = make()  # the same games, with all that the environment tells
  reference.reset(seed=environments.seeds(3, 0, Purpose.TRAINING, count=2))
  rng = np.random.default_rng(0)
  lives, totals, ages = np.array([5, 5]), np.zeros(2), np.zeros(2, int)
  finished, expected_returns, lost = [], [], np.zeros(2, int)
  for _ in range(500):
    actions = rng.integers(4, size=2)
    games.send(actions)
    step = games.receive()
    observations, rewards, terminated, _, info = reference.step(actions)
    np.testing.assert_array_equal(games.observations, observations)
    np.testing.assert_array_equal(step.rewards, rewards)
    now = np.where(terminated, 0, info['lives'])
    np.testing.assert_array_equal(step.terminal, now < lives)
    lost += step.terminal
    totals += rewards
    ages = np.where(terminated, 0, ages + 1)
    np.testing.assert_array_equal(games.ages, ages)
    for i in np.flatnonzero(terminated):
      assert lost[i] == 5
      expected_returns.append(totals[i])
      totals[i], lost[i] = 0, 0
    finished += step.returns
    lives = np.where(terminated, 5, now)
    assert not step.truncated.any()
  assert finished == expected_returns and len(finished) >= 4
  black = (games.observations == 0).all((2, 3)).sum(1)  # frames from before the game
  np.testing.assert_array_equal(black, np.maximum(3 - games.ages, 0))


def test_a_game_that_is_cut_off_is_truncated_and_no_life_is_lost():
  games = Games(make(max_frames=200), seed=0, reseed_every=1000)
  cut = {i: s for i, (s, _, _) in enumerate(random_steps(games, 120), 1) if s.truncated.any()}
  assert list(cut) == [50, 100]  # of four frames each, those without an action not counted
  for step in cut.values():
    assert not step.terminal[step.truncated].any()
    assert len(step.returns) == step.truncated.sum()


@pytest.mark.parametrize('repeat_action_probability', [0.0, 0.25])
def test_restored_games_go_on_as_they_would_have(repeat_action_probability):
  """With a second `save`, after some environments were seeded anew and others were not."""
  new = lambda: Games(make(num_envs=3, repeat_action_probability=repeat_action_probability), 7, 300)
  games = new()
  assert sum(len(step.returns) for step, _, _ in random_steps(games, 300)) >= 3
  saves = []
  for steps in (100, 300):
    saves.append(games.save())
    played = random_steps(games, steps, seed=steps)
    other = new()
    random_steps(other, 5)  # whatever was played before does not matter
    other.restore(saves[-1])
    for (step, observations, ages), (step2, observations2, ages2) in zip(
      played, random_steps(other, steps, seed=steps), strict=True
    ):
      for a, b in zip((*step, observations, ages), (*step2, observations2, ages2)):
        np.testing.assert_array_equal(a, b)
  seeded = saves[1]['seeded_at']
  assert (seeded == 0).any() and (seeded > 300).any()  # some still go on from the start
  last = games.save()
  assert (last['seeded_at'] > 300).all() and len(last['actions']) < last['steps'] - 300


def test_saving_does_not_change_the_games():
  games, saved = Games(make(), 7, 50), Games(make(), 7, 50)
  for part in range(10):
    for (step, *rest), (step2, *rest2) in zip(
      random_steps(games, 40, part), random_steps(saved, 40, part), strict=True
    ):
      for a, b in zip((*step, *rest), (*step2, *rest2), strict=True):
        np.testing.assert_array_equal(a, b)
    saved.save()
  assert (games.save()['seeded_at'] > 50).all()


def test_games_of_an_earlier_version_are_refused():
  games = Games(make(), 7, 50)
  saved = games.save()
  del saved['reseed_every']
  with pytest.raises(UserError, match='of an earlier version'):
    games.restore(saved)


def test_an_episode_can_go_on_without_limit():
  """Without an action the ball of Breakout is never served; 18,000 frames are a usual limit."""
  env = make(num_envs=1, max_frames=0)
  env.reset(seed=np.array([0]))
  for _ in range(4600):
    _, _, terminated, truncated, info = env.step(np.zeros(1, np.int64))
    assert not terminated[0] and not truncated[0]
  assert info['episode_frame_number'][0] > 18_000


def test_random_play_takes_every_fourth_observation_of_each_environment():
  class Env:
    """Observations hold the environment, the step and the seed."""

    num_envs = 3
    single_action_space = types.SimpleNamespace(n=5)

    def reset(self, seed):
      self.seeds, self.steps, self.actions = seed, 0, []

    def step(self, actions):
      self.steps += 1
      self.actions.append(actions)
      steps = np.full(3, self.steps)
      return np.stack([np.arange(3), steps, self.seeds], axis=1), 0, 0, 0, {}

  env = Env()
  played = [environments.random_play(env, 5, seed).tolist() for seed in (0, 0, 1)]
  seeds = environments.seeds(0, 0, Purpose.INITIALIZATION, count=3)
  assert played[0] == [[i, step, seeds[i]] for step in (4, 8) for i in range(3)][:5]
  assert played[0] == played[1] != played[2]
  environments.random_play(env, 3000, 0)
  counts = np.bincount(np.ravel(env.actions), minlength=5) / (3 * env.steps)
  np.testing.assert_allclose(counts, 0.2, atol=5 * np.sqrt(0.2 / (3 * env.steps)))


def test_seeds_differ():
  numbers = itertools.product((0, 1), (0, 1), Purpose)
  drawn = [environments.seeds(*three, count=8) for three in numbers]
  assert len(np.unique(drawn)) == 2 * 2 * len(Purpose) * 8 and np.min(drawn) >= 0
