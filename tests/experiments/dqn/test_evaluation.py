"""Evaluation: which episodes count, its ε, its statistics, and the episode that is shown."""

import io

import numpy as np
import pytest
from ml_collections import config_dict
from PIL import Image, ImageSequence

from configs import dqn
from experiments.dqn import environments, evaluation, pictures
from experiments.dqn.actor_learner import ActorLearner
from experiments.dqn.train import eval_metrics


def frozen(**changes):
  config = dqn.get_config('breakout-wn,tiny')
  config.update(changes)
  return config_dict.FrozenConfigDict(config)


def test_evaluation_has_an_epsilon_of_its_own():
  observations = np.random.default_rng(0).integers(256, size=(1, 4, 84, 84)).astype(np.uint8)
  counts = {}
  for eval_epsilon in (0.0, 1.0):
    policy = ActorLearner(frozen(eval_epsilon=eval_epsilon, epsilon_end=0.5)).eval_policy()
    actions = [policy(step, observations)[0] for step in range(200)]
    counts[eval_epsilon] = np.bincount(actions, minlength=4)
  assert sorted(counts[0.0]) == [0, 0, 0, 200]  # greedy
  assert counts[1.0].min() > 25  # of 50 expected


def test_first_episodes_of_each_environment_count():
  """As if each had been alone; the actions do not depend on what is seen."""
  config = frozen(eval_max_frames=1600)
  policy = lambda step, observations: (np.full(len(observations), step) * 7 // 3) % 4
  env_seeds = np.array([3, 4, 5])
  returns = evaluation.play(policy, config, 6, env_seeds)
  assert returns.shape == (3, 2) and len(np.unique(returns)) > 1
  for i in range(3):
    env = environments.make('breakout', 1, max_frames=1600, repeat_action_probability=0.0)
    env.reset(seed=env_seeds[i : i + 1])
    totals, step = [0.0], 0
    while len(totals) <= 2:
      _, rewards, terminated, truncated, _ = env.step(policy(step, np.zeros(1)))
      totals[-1] += rewards[0]
      if terminated[0] or truncated[0]:
        totals.append(0.0)
      step += 1
    np.testing.assert_array_equal(returns[i], totals[:2])

  frames, total = evaluation.record(policy, config, env_seeds[:1])
  assert total == returns[0, 0]
  assert frames.shape[1:] == (210, 160, 3) and 50 < len(frames) <= 401
  assert (frames[1:] != frames[:-1]).any((1, 2, 3)).mean() > 0.5


def test_mean_and_standard_error_of_a_score():
  metrics = eval_metrics(np.array([[1.0, 2.0], [3.0, 6.0]]))
  variance = (4 + 1 + 0 + 9) / 3
  assert metrics == pytest.approx(
    {'eval/score': 3.0, 'eval/standard_error': np.sqrt(variance / 4), 'eval/episodes': 4.0}
  )
  assert eval_metrics(np.array([[5.0]]))['eval/standard_error'] == 0


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
