"""The experiment from end to end on real games, how often it learns, resuming."""

import contextlib
import io
import json
import os
import signal
import time

import jax
import matplotlib.image
import numpy as np
import psutil
import pytest
from ml_collections import config_dict
from PIL import Image

from configs import dqn
from experiments.dqn import environments, evaluation, pictures
from experiments.dqn import train as train_lib
from experiments.dqn.actor_learner import ActorLearner
from experiments.dqn.environments import Games
from experiments.dqn.validate import validate
from experiments.training.errors import Interrupted, UserError
from experiments.training.metrics import read_rows


def frozen(spec='breakout-wn,tiny', **changes):
  config = dqn.get_config(spec)
  config.update(changes)
  return config_dict.FrozenConfigDict(config)


@pytest.mark.parametrize(
  'spec, changes',
  [
    ('breakout-wn,tiny', {}),
    ('space_invaders-plain,tiny', {'optimizer': 'rmsprop', 'learning_rate': 0.00025}),
  ],
)
def test_a_whole_run(spec, changes, tmp_path):
  train_lib.train(frozen(spec, **changes), tmp_path)
  rows = read_rows(tmp_path / 'metrics.jsonl')
  training = [row for row in rows if 'train/epsilon' in row]
  assert [row['step'] for row in training] == [80, 160, 200, 240, 320, 400, 480, 560, 600, 640,
                                               720, 800]  # fmt: skip
  assert training[0]['train/epsilon'] == pytest.approx(0.82)
  assert [row['train/epsilon'] for row in training[5:]] == [0.1] * 7
  assert all(row['frames'] == 4 * row['step'] for row in rows)
  assert 'train/loss' not in training[0] and training[0]['updates_per_second'] == 0
  for row in training[1:]:
    assert row['train/loss'] > 0 and row['train/mean_q'] < 2
    ratio = row['agent_steps_per_second'] / row['updates_per_second']
    assert ratio == pytest.approx(4)
  evaluations = [row for row in rows if 'eval/score' in row]
  assert [row['epoch'] for row in evaluations] == [1, 2]
  assert all(row['eval/episodes'] == 4 for row in evaluations)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['final'] == evaluations[-1]
  assert summary['best']['eval/score'] == max(row['eval/score'] for row in evaluations)
  assert matplotlib.image.imread(tmp_path / 'score.png').std() > 0
  with Image.open(tmp_path / 'episode.gif') as gif:
    assert gif.size == (160, 210) and gif.n_frames > 10
  assert not (tmp_path / 'replay').exists()


def snapshot(agent):
  """Updates so far, parameters and those of the target network, as NumPy arrays."""
  state = agent.state
  flat = lambda params: np.concatenate([np.asarray(p).ravel() for p in jax.tree.leaves(params)])
  return int(state.train.step), flat(state.train.params), flat(state.target_params)


def test_one_update_for_four_agent_steps_and_copies_of_the_target_network():
  """Learning starts at 80 agent steps, each step is 8 of them; a copy every 80."""
  config = frozen(num_envs=8, target_period=80, learning_starts=80)
  agent = ActorLearner(config)
  _, _, initial = snapshot(agent)
  expected_target = initial
  for steps in range(0, 400, 8):
    assert agent.steps == steps
    updates, params, target = snapshot(agent)
    assert updates == max(0, steps - 80) // 4
    np.testing.assert_array_equal(target, expected_target)
    if steps >= 80 and steps % 80 == 0:
      expected_target = params  # before the updates of this step
    agent.step()
  assert (params != initial).any() and (expected_target != initial).any()


def first_actions(config, steps=1000):
  agent = ActorLearner(config)
  return np.stack([agent.step() for _ in range(steps // config.num_envs)])


def test_the_same_seed_takes_the_same_first_thousand_actions(monkeypatch):
  config = frozen()
  actions = first_actions(config)
  assert actions.size == 1000
  assert (actions != first_actions(frozen(seed=1))).any()

  receive, rng = Games.receive, np.random.default_rng(0)

  def slow_receive(games):
    time.sleep(0.004 * rng.random())  # whether games or updates are the slower ones
    return receive(games)

  monkeypatch.setattr(Games, 'receive', slow_receive)
  np.testing.assert_array_equal(actions, first_actions(config))


def logged(workdir):
  return [
    {k: v for k, v in row.items() if k != 'seconds' and 'per_second' not in k}
    for row in read_rows(workdir / 'metrics.jsonl')
  ]


class Killed(Exception):
  pass


def kill():
  raise Killed


def interrupt():
  os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_goes_on_as_the_uninterrupted_one(tmp_path, monkeypatch):
  """Sticky actions, games that end, a replay memory that is full: all is the same.

  It is killed, interrupted between two checkpoints, which makes one there, and killed after a
  checkpoint that is not the one at the end of an epoch.
  """
  config = frozen(
    epochs=1, steps_per_epoch=800, replay_capacity=240, repeat_action_probability=0.25
  )
  step, stops = ActorLearner.step, {}

  def train(name):
    """Runs until it is done or stopped; → actions by agent step."""
    actions = {}

    def recording_step(agent):
      before = agent.steps
      if before in stops:
        stops.pop(before)()
      actions[before] = step(agent)

    monkeypatch.setattr(ActorLearner, 'step', recording_step)
    with contextlib.suppress(Killed, Interrupted):
      train_lib.train(config, tmp_path / name)
    return actions

  expected = train('whole')
  stops |= {360: kill, 512: interrupt, 720: kill}
  for first, last in ((0, 356), (200, 512), (516, 716), (600, 796)):
    actions = train('parts')
    assert (min(actions), max(actions)) == (first, last)
    for steps, taken in actions.items():
      np.testing.assert_array_equal(taken, expected[steps])
  rows = logged(tmp_path / 'parts')
  assert rows == logged(tmp_path / 'whole')
  assert any('train/episode_return' in row for row in rows)


def test_an_interrupted_evaluation_is_done_when_the_run_goes_on(tmp_path, monkeypatch):
  config = frozen(epochs=1, steps_per_epoch=80, eval_episodes=2, final_eval_episodes=2)
  play = evaluation.play

  def interrupted_play(*args):
    interrupt()
    return play(*args)

  monkeypatch.setattr(evaluation, 'play', interrupted_play)
  for _ in range(2):
    with pytest.raises(Interrupted, match='stopped at agent step 80 by SIGTERM'):
      train_lib.train(config, tmp_path)
  monkeypatch.setattr(evaluation, 'play', play)
  train_lib.train(config, tmp_path)
  rows = logged(tmp_path)
  assert [row['step'] for row in rows] == [80, 80]
  assert 'eval/score' in rows[-1] and (tmp_path / 'summary.json').exists()


def test_training_stops_at_a_loss_that_is_not_finite(tmp_path, monkeypatch):
  monkeypatch.setattr(ActorLearner, 'take_metrics', lambda agent: {'train/loss': np.nan})
  with pytest.raises(UserError, match='train/loss is nan at step 80'):
    train_lib.train(frozen(), tmp_path)
  assert not list((tmp_path / 'checkpoints').iterdir())


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
  metrics = train_lib.eval_metrics(np.array([[1.0, 2.0], [3.0, 6.0]]))
  variance = (4 + 1 + 0 + 9) / 3
  assert metrics == pytest.approx(
    {'eval/score': 3.0, 'eval/standard_error': np.sqrt(variance / 4), 'eval/episodes': 4.0}
  )
  assert train_lib.eval_metrics(np.array([[5.0]]))['eval/standard_error'] == 0


def test_a_gif_keeps_to_its_size():
  noise = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3)).astype(np.uint8)
  whole, small = pictures.gif(noise), pictures.gif(noise, max_bytes=10_000)
  assert len(small) <= 10_000 < len(whole)
  with Image.open(io.BytesIO(whole)) as image:
    assert image.n_frames == 40
  with Image.open(io.BytesIO(small)) as image:
    assert 1 < image.n_frames < 40


@pytest.mark.parametrize('spec', dqn.SWEEPS['table2'])
def test_the_paper_s_configs_are_valid(spec, monkeypatch):
  memory = type(psutil.virtual_memory())
  monkeypatch.setattr(psutil, 'virtual_memory', lambda: memory(*[2**40] * len(memory._fields)))
  validate(frozen(spec[0], **spec[1]))
