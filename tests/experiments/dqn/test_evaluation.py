"""Evaluation: which episodes count, its ε, its statistics, and the episode that is shown."""

import io
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image, ImageSequence

from configs import dqn
from experiments.dqn import environments, evaluation, pictures
from experiments.dqn.actor_learner import ActorLearner
from tests import configurations


def frozen(changes=MappingProxyType({})):
  return configurations.frozen(dqn, 'breakout-wn,tiny', changes)


def test_evaluation_has_an_epsilon_of_its_own():
  observations = np.random.default_rng(0).integers(256, size=(1, 4, 84, 84)).astype(np.uint8)
  counts = {}
  for epsilon in (0.0, 1.0):
    config = frozen({'evaluation.epsilon': epsilon, 'exploration.end': 0.5})
    policy = ActorLearner(config).eval_policy()
    actions = [policy(step, observations)[0] for step in range(200)]
    counts[epsilon] = np.bincount(actions, minlength=4)
  assert sorted(counts[0.0]) == [0, 0, 0, 200]  # greedy
  assert counts[1.0].min() > 25  # of 50 expected


ENV_SEEDS = np.array([3, 4, 5])


def scripted(step, observations):
  """A policy that does not look."""
  return (np.full(len(observations), step) * 7 // 3) % 4


def episodes_of(seed, count):
  """(return, first step after it) of the first episodes of one environment that is alone."""
  env = environments.make('breakout', 1, max_frames=1600, repeat_action_probability=0.0)
  env.reset(seed=np.array([seed]))
  episodes, total, step = [], 0.0, 0
  while len(episodes) < count:
    _, rewards, terminated, truncated, _ = env.step(scripted(step, np.zeros(1)))
    total, step = total + float(rewards[0]), step + 1
    if terminated[0] or truncated[0]:
      episodes.append((total, step))
      total = 0.0
  return episodes


def test_episodes_that_begin_within_an_environment_s_share_of_the_steps_count():
  config = frozen({'evaluation.max_frames': 1600})
  expected = [episodes_of(seed, 6) for seed in ENV_SEEDS]
  second_end = expected[0][1][1]
  counts = []
  for share in (1, 300, second_end, second_end + 1):
    returns = []
    for episodes in expected:
      begins = [0] + [end for _, end in episodes[:-1]]
      assert share <= begins[-1]  # the episodes that may count are all there
      returns += [total for begin, (total, _) in zip(begins, episodes) if begin < share]
    assert evaluation.play(scripted, config, 3 * share, ENV_SEEDS) == returns
    counts.append(len(returns))
  assert counts[0] == 3  # one of each environment
  assert counts[2] < counts[3]  # an episode that begins with the last step counts
  assert len(set(returns)) > 1


def test_the_episode_that_is_shown():
  config = frozen({'evaluation.max_frames': 1600})
  total, length = episodes_of(3, 1)[0]
  frames, shown = evaluation.record(scripted, config, ENV_SEEDS[:1], max_frames=10_000)
  assert shown == total
  assert frames.shape == (length + 1, 210, 160, 3)
  assert (frames[1:] != frames[:-1]).any((1, 2, 3)).mean() > 0.5
  unlimited = frozen({'evaluation.max_frames': 0})
  wait = lambda step, observations: np.zeros(len(observations), int)  # the ball is not served
  assert len(evaluation.record(wait, unlimited, ENV_SEEDS[:1], max_frames=400)[0]) == 101


def test_evaluation_sets_episodes_no_limit_of_time(monkeypatch):
  """They end when the game does, whatever limit those of training have."""
  limits, make = [], environments.make

  def recording_make(*args, max_frames, **kwargs):
    limits.append(max_frames)
    return make(*args, max_frames=max_frames, **kwargs)

  monkeypatch.setattr(environments, 'make', recording_make)
  served = lambda step, observations: np.ones(len(observations), int)  # and never hit
  config = frozen({'evaluation.max_frames': 0, 'env.max_frames': 40})
  assert len(evaluation.play(served, config, 3, ENV_SEEDS)) == 3
  assert limits == [0]


def test_mean_and_standard_error_of_a_score():
  metrics = evaluation.metrics([1.0, 2.0, 3.0, 6.0])
  variance = (4 + 1 + 0 + 9) / 3
  assert metrics == pytest.approx(
    {'eval/score': 3.0, 'eval/standard_error': np.sqrt(variance / 4), 'eval/episodes': 4.0}
  )
  assert evaluation.metrics([5.0])['eval/standard_error'] == 0


def test_a_gif_keeps_to_its_size():
  noise = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3)).astype(np.uint8)
  whole, small = pictures.gif(noise), pictures.gif(noise, max_bytes=10_000)
  length = lambda image: sum(f.info['duration'] for f in ImageSequence.Iterator(image))
  assert len(small) <= 10_000 < len(whole)
  with Image.open(io.BytesIO(whole)) as image:
    assert image.n_frames == 40 and length(image) == 1600
  with Image.open(io.BytesIO(small)) as image:
    assert 1 < image.n_frames < 40
    assert 1600 <= length(image) < 1600 + 40 * 40 / image.n_frames  # it plays as fast
