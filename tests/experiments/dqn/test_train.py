"""The experiment from end to end on real games, how often it learns, resuming."""

import contextlib
import errno
import functools
import json
import math
import os
import shutil
import signal
import time
from types import MappingProxyType

import jax
import matplotlib.image
import numpy as np
import psutil
import pytest
from ml_collections import config_dict
from PIL import Image

from configs import dqn
from experiments.dqn import agent, environments, evaluation
from experiments.dqn import train as train_lib
from experiments.dqn.actor_learner import ActorLearner
from experiments.dqn.environments import Games, Purpose
from experiments.dqn.validate import validate
from experiments.runtime import settings
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import Interrupted, UserError
from experiments.runtime.metrics import read_rows
from tests import configurations


def frozen(spec='breakout-wn,tiny', changes=MappingProxyType({})):
  return configurations.frozen(dqn, spec, changes)


@pytest.mark.parametrize(
  'spec, changes',
  [
    ('breakout-wn,tiny', {}),
    (
      'space_invaders-plain,tiny',
      {'optimizer.name': 'rmsprop', 'optimizer.learning_rate': 0.00025},
    ),
  ],
)
def test_a_whole_run(spec, changes, tmp_path):
  train_lib.train(frozen(spec, changes), tmp_path)
  rows = read_rows(tmp_path / 'metrics.jsonl')
  training = [row for row in rows if 'train/epsilon' in row]
  assert [row['step'] for row in training] == [80, 160, 200, 240, 320, 400, 480, 560, 600, 640,
                                               720, 800]  # fmt: skip
  epsilon = [row['train/epsilon'] for row in training]
  assert epsilon[:3] == pytest.approx([1.0, 0.82, 0.73]) and epsilon[6:] == [0.1] * 6
  assert all(row['frames'] == 4 * row['step'] for row in rows)
  assert 'train/loss' not in training[0] and training[0]['updates_per_second'] == 0
  for row in training[1:]:
    assert row['train/loss'] > 0 and abs(row['train/mean_q']) < 20
    ratio = row['agent_steps_per_second'] / row['updates_per_second']
    assert ratio == pytest.approx(4)
  evaluations = [row for row in rows if 'eval/score' in row]
  assert [row['epoch'] for row in evaluations] == [1, 2]
  assert all(row['eval/episodes'] >= 2 for row in evaluations)  # one of each environment
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['data']['name'].startswith('ale_py ') and len(summary['data']['digest']) == 64
  assert summary['final'] == evaluations[-1]
  assert summary['best']['eval/score'] == max(row['eval/score'] for row in evaluations)
  assert matplotlib.image.imread(tmp_path / 'score.png').std() > 0
  with Image.open(tmp_path / 'episode.gif') as gif:
    assert gif.size == (160, 210) and gif.n_frames > 10


def snapshot(learner):
  """Updates so far, parameters and those of the target network, as NumPy arrays."""
  state = learner.state
  flat = lambda params: np.concatenate([np.asarray(p).ravel() for p in jax.tree.leaves(params)])
  return int(state.train.step), flat(state.train.params), flat(state.target_params)


@pytest.mark.parametrize(
  'num_envs, learning_starts, target_period', [(8, 80, 20), (2, 82, 11), (1, 81, 17)]
)
def test_one_update_for_four_agent_steps_and_copies_of_the_target_network(
  num_envs, learning_starts, target_period
):
  """The first update is at the first multiple of four; before it, and every so many, is a copy."""
  config = frozen(
    changes={
      'env.num_envs': num_envs,
      'learning.target_period': target_period,
      'replay.learning_starts': learning_starts,
    }
  )
  validate(config)
  learner = ActorLearner(config)
  _, _, initial = snapshot(learner)
  expected_target, copies = initial, 0
  for steps in range(0, 400, num_envs):
    assert learner.steps == steps
    updates, params, target = snapshot(learner)
    assert updates == max(0, math.ceil(steps / 4) - math.ceil(learning_starts / 4))
    assert updates == learner.updates
    np.testing.assert_array_equal(target, expected_target)
    learns = steps >= learning_starts and steps % 4 == 0
    if learns and updates % target_period == 0:
      expected_target, copies = params, copies + 1  # before the updates of this step
    learner.step()
  assert (params != initial).any() and (expected_target != initial).any()
  assert copies == math.ceil(updates / target_period)


def test_what_is_remembered_is_what_happened(monkeypatch):
  """Against the same games with all that the environment tells, through lost lives and ends."""
  config = frozen(
    'breakout-plain,tiny',
    {'env.max_frames': 400, 'replay.learning_starts': 800, 'replay.capacity': 1600},
  )
  learner = ActorLearner(config)
  env = environments.make('breakout', 4, max_frames=400, repeat_action_probability=0.0)
  env_seeds = environments.seeds(config.seed, 0, Purpose.TRAINING, count=4)
  observations, info = env.reset(seed=env_seeds)
  lives, expected = info['lives'], {}
  for row in range(150):
    actions = learner.step()
    following, rewards, terminated, truncated, info = env.step(actions.astype(np.int64))
    for i in np.flatnonzero(~truncated):
      discount = 0 if terminated[i] or info['lives'][i] < lives[i] else 1
      expected[row, i] = observations[i], actions[i], np.sign(rewards[i]), discount, following[i]
    observations, lives = following, info['lives']
  assert len(expected) < 4 * 150  # games were cut off
  del expected[149, 0], expected[149, 1], expected[149, 2], expected[149, 3]
  rows, envs = np.array(list(expected)).T
  monkeypatch.setattr(learner.replay, '_draw', lambda *_: (rows.copy(), envs.copy()))
  batch = learner.replay.sample(np.random.default_rng(0), 1, len(expected))
  frames, ages, a_tm1, r_t, discount_t = (array[0] for array in batch)
  s_tm1, s_t = agent.stack(frames[:, :-1], ages[:, 0]), agent.stack(frames[:, 1:], ages[:, 1])
  for got, wanted in zip((s_tm1, a_tm1, r_t, discount_t), zip(*expected.values())):
    np.testing.assert_array_equal(got, np.array(wanted))
  goes_on = discount_t == 1
  assert 0 < np.sum(~goes_on) < 100 and r_t.any()
  wanted = np.array([following for *_, following in expected.values()])
  np.testing.assert_array_equal(s_t[goes_on], wanted[goes_on])


def first_actions(config, steps=1000):
  learner = ActorLearner(config)
  return np.stack([learner.step() for _ in range(steps // config.env.num_envs)])


def test_the_same_seed_takes_the_same_first_thousand_actions(monkeypatch):
  config = frozen()
  actions = first_actions(config)
  assert actions.size == 1000
  assert (actions != first_actions(frozen(changes={'seed': 1}))).any()

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


# One evaluation, as short as can be.
SHORT = {'steps_per_epoch': 80, 'evaluation.steps': 2}


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
    changes={
      'epochs': 2,
      'steps_per_epoch': 400,
      'replay.capacity': 240,
      'env.repeat_action_probability': 0.25,
    }
  )
  step, stops = ActorLearner.step, {}

  def train(name):
    """Runs until it is done or stopped; → actions by agent step."""
    actions = {}

    def recording_step(learner):
      before = learner.steps
      if before in stops:
        stops.pop(before)()
      actions[before] = step(learner)

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
  config = frozen(changes={'epochs': 1, **SHORT})
  play = evaluation.play

  def interrupted_play(*args):
    interrupt()
    return play(*args)

  monkeypatch.setattr(evaluation, 'play', interrupted_play)
  for _ in range(2):
    with pytest.raises(Interrupted, match='stopped at step 80 by SIGTERM'):
      train_lib.train(config, tmp_path)
  monkeypatch.setattr(evaluation, 'play', play)
  train_lib.train(config, tmp_path)
  rows = logged(tmp_path)
  assert [row['step'] for row in rows] == [80, 80]
  assert 'eval/score' in rows[-1] and (tmp_path / 'summary.json').exists()


def test_an_evaluation_that_could_not_be_saved_is_not_counted_twice(tmp_path, monkeypatch):
  """As when the process is killed between its row and its checkpoint."""
  config = frozen(changes={'epochs': 1, **SHORT})
  play, save = evaluation.play, Checkpoints.save

  def interrupted_play(*args):
    interrupt()
    return play(*args)

  def killed_save(self, state, metrics=None, notes=None):
    if metrics:
      kill()
    save(self, state, metrics, notes)

  monkeypatch.setattr(evaluation, 'play', interrupted_play)
  with pytest.raises(Interrupted):
    train_lib.train(config, tmp_path)
  monkeypatch.setattr(evaluation, 'play', play)
  monkeypatch.setattr(Checkpoints, 'save', killed_save)
  with pytest.raises(Killed):
    train_lib.train(config, tmp_path)
  assert [row['step'] for row in logged(tmp_path)] == [80, 80]
  monkeypatch.setattr(Checkpoints, 'save', save)
  train_lib.train(config, tmp_path)
  rows = logged(tmp_path)
  assert [row['step'] for row in rows] == [80, 80] and 'eval/score' in rows[-1]


def test_nothing_is_kept_in_a_directory_that_is_another_run_s_by_now(tmp_path, monkeypatch):
  """Neither rows nor games, when a signal comes between two rows."""
  step = ActorLearner.step

  def broken_step(learner):
    actions = step(learner)
    if learner.steps == 124:
      (tmp_path / 'run').rename(tmp_path / 'moved')
      (tmp_path / 'run').mkdir()
      interrupt()
    return actions

  monkeypatch.setattr(ActorLearner, 'step', broken_step)
  with pytest.raises(UserError, match='was deleted, moved or replaced'):
    train_lib.train(frozen(), tmp_path / 'run')
  assert not list((tmp_path / 'run').iterdir())


def test_replay_memory_on_a_full_disk(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')  # as of a write: it names no file

  monkeypatch.setattr(np, 'savez', full)
  with pytest.raises(UserError, match=r'cannot write .*/replay/200\.npz \(No space left on device'):
    train_lib.train(frozen(), tmp_path)
  monkeypatch.undo()
  train_lib.train(frozen(), tmp_path)
  assert (tmp_path / 'summary.json').exists()


def test_a_finished_run_can_be_trained_longer(tmp_path):
  """It is then the run that was longer from the start."""
  changes = {'replay.capacity': 240, 'evaluation.steps': 2}
  train_lib.train(frozen(changes=changes), tmp_path / 'whole')
  for epochs in (1, 2):
    train_lib.train(frozen(changes={'epochs': epochs, **changes}), tmp_path / 'parts')
    summary = json.loads((tmp_path / 'parts' / 'summary.json').read_text())
    assert summary['final']['epoch'] == summary['config']['epochs'] == epochs
  assert logged(tmp_path / 'parts') == logged(tmp_path / 'whole')


def test_a_finished_run_without_its_replay_memory_stays_as_it_is(tmp_path):
  config = frozen(changes={'epochs': 1, **SHORT})
  train_lib.train(config, tmp_path)
  before = {path: path.read_bytes() for path in tmp_path.glob('*.json*')}
  shutil.rmtree(tmp_path / 'replay')
  with pytest.raises(UserError, match=r'cannot read .*/replay/80\.npz .*checkpoint needs'):
    train_lib.train(frozen(changes={'epochs': 2, **SHORT}), tmp_path)
  assert before == {path: path.read_bytes() for path in tmp_path.glob('*.json*')}
  train_lib.train(config, tmp_path)  # it is finished


def test_training_stops_at_a_loss_that_is_not_finite(tmp_path, monkeypatch):
  monkeypatch.setattr(ActorLearner, 'take_metrics', lambda learner: {'train/loss': np.nan})
  with pytest.raises(UserError, match='train/loss is nan at step 80'):
    train_lib.train(frozen(), tmp_path)
  assert not list((tmp_path / 'checkpoints').iterdir())


KEYS = settings.flatten(dqn.get_config('breakout-wn,tiny').to_dict())


@pytest.mark.parametrize('key', sorted(KEYS.keys() - {'experiment', 'protocol'}))
def test_every_value_is_checked(key):
  config = dqn.get_config('breakout-wn,tiny').to_dict()
  *sections, name = key.split('.')
  section = functools.reduce(dict.__getitem__, sections, config)
  del section[name]
  with pytest.raises(UserError, match=f'the config has no {key!r}'):
    validate(config_dict.FrozenConfigDict(config))
  section[name] = None
  with pytest.raises(UserError, match=f'{key}=None|unknown game None'):
    validate(config_dict.FrozenConfigDict(config))


@pytest.mark.parametrize('spec', dqn.SWEEPS['figure6'])
def test_the_paper_s_configs_are_valid(spec, monkeypatch):
  memory = type(psutil.virtual_memory())
  monkeypatch.setattr(psutil, 'virtual_memory', lambda: memory(*[2**40] * len(memory._fields)))
  validate(frozen(*spec))
