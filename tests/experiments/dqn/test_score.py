"""The score of the best network, played anew."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import config_dict

from configs import dqn
from experiments.dqn import agent, best_network, environments, evaluation, score
from experiments.dqn.actor_learner import ActorLearner
from experiments.dqn.environments import Purpose
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import UserError

NOOP, FIRE = 0, 1  # of Space Invaders
CONFIG = dqn.get_config('space_invaders-wn,tiny')
CONFIG.evaluation.update({'epsilon': 0.0, 'max_frames': 1200, 'num_envs': 3})


def always(action, step):
  """The state of an agent whose network prefers one action, whatever it sees."""
  graphdef, state = agent.create(CONFIG, agent.create_network(CONFIG, 6, jax.random.key(0)))
  network = nnx.merge(graphdef, jax.tree.map(jnp.zeros_like, state.params))
  network.out.bias[...] = jax.nn.one_hot(action, 6)
  train = dataclasses.replace(state.train, params=nnx.state(network, nnx.Param))
  return dataclasses.replace(state, train=train, step=jnp.int32(step))


def write_run(path, *checkpoints):
  """A run with one checkpoint for each (step, action, score)."""
  path.mkdir()
  (path / 'config.json').write_text(CONFIG.to_json())
  rows = [{'step': 80, 'epoch': 0.2, 'seconds': 9.0, 'train/loss': 1.0}]
  rows += [
    {'step': step, 'epoch': step / 400, 'seconds': 9.0, 'eval/score': value}
    for step, _, value in checkpoints
  ]
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  writer = Checkpoints(path / 'checkpoints', keep=1, best_metric='eval/score', best=max)
  for step, action, value in checkpoints:
    writer.save(always(action, step), {'eval/score': value})
  writer.close()
  return path


def test_it_is_that_of_the_best_network_in_other_episodes(tmp_path):
  workdir = write_run(tmp_path / 'run', (400, FIRE, 7.0), (800, NOOP, 2.0))
  result = best_network.score(workdir, 5)
  seeds = environments.seeds(CONFIG.seed, 400, Purpose.SCORE, count=5)
  assert len(set(seeds)) == 5
  assert not set(seeds) & set(environments.seeds(CONFIG.seed, 400, Purpose.EVALUATION, count=5))
  shoot = lambda step, observations: np.full(len(observations), FIRE)
  expected = [
    evaluation.play(shoot, config_dict.FrozenConfigDict(CONFIG), 1, seed[None])[0] for seed in seeds
  ]
  assert result['returns'] == expected and min(expected) > 0
  assert result['score'] == np.mean(expected)
  assert result['standard_error'] == pytest.approx(np.std(expected, ddof=1) / np.sqrt(5))
  assert (result['step'], result['frames'], result['highest_score']) == (400, 1600, 7.0)
  assert (result['episodes'], result['epsilon']) == (5, 0.0)
  assert result == json.loads((workdir / 'score-5.json').read_text())
  assert result == best_network.score(workdir, 5)


def test_random_play_does_not_depend_on_the_network(tmp_path):
  runs = [write_run(tmp_path / f'run{action}', (400, action, 1.0)) for action in (NOOP, FIRE)]
  first, second = (best_network.score(run, 4, epsilon=1.0) for run in runs)
  assert first == json.loads((runs[0] / 'score-4-epsilon-1.json').read_text())
  assert first.pop('checkpoint') != second.pop('checkpoint')
  assert first == second
  assert len(set(first['returns'])) > 1


def test_of_equal_scores_the_checkpoint_that_is_kept(tmp_path):
  run = write_run(tmp_path / 'run', (400, FIRE, 7.0), (800, FIRE, 7.0), (1200, NOOP, 2.0))
  assert best_network.score(run, 3)['step'] == 800


def test_another_training_takes_nothing_from_the_first(tmp_path):
  """Checkpoints of the same step, in the same directory."""
  run = write_run(tmp_path / 'run', (400, FIRE, 7.0))
  first = best_network.score(run, 3)
  for name in ('checkpoints', 'config.json', 'metrics.jsonl'):
    (run / name).rename(tmp_path / name)
  for path in write_run(tmp_path / 'other', (400, NOOP, 7.0)).iterdir():
    path.rename(run / path.name)
  assert best_network.score(run, 3)['returns'] != first['returns']


def test_action_noise_differs_in_all_steps_and_episodes(tmp_path, monkeypatch):
  """And from that of the evaluation."""
  monkeypatch.setattr(f'{__name__}.CONFIG', CONFIG.copy_and_resolve_references())
  CONFIG.evaluation.update({'num_envs': 30, 'epsilon': 1.0})
  observations = np.zeros((30, 4, 84, 84), np.uint8)
  learner = ActorLearner(config_dict.FrozenConfigDict(CONFIG))
  learner.steps = 400
  policies = [learner.eval_policy()]

  def play(policy, config, steps, env_seeds):
    policies.append(policy)
    return [0.0] * len(env_seeds)

  monkeypatch.setattr(evaluation, 'play', play)
  best_network.score(write_run(tmp_path / 'run', (400, FIRE, 7.0)), 60)
  assert len(policies) == 3
  actions = [tuple(policy(step, observations)) for policy in policies for step in range(3)]
  assert len(set(actions)) == 9


def test_it_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
  run = write_run(tmp_path / 'run', (400, FIRE, 7.0))
  whole = best_network.score(run, 9, epsilon=1.0)
  path = run / 'score-9-epsilon-1.jsonl'
  path.write_text(path.read_text()[:-9])  # the last of three parts is cut off
  play, calls = evaluation.play, []
  monkeypatch.setattr(evaluation, 'play', lambda *args: calls.append(args) or play(*args))
  assert best_network.score(run, 9, epsilon=1.0) == whole
  assert len(calls) == 1


def test_the_command_says_what_it_found(tmp_path, monkeypatch, capsys):
  """Of a directory that is given as it is seen from the present one."""
  write_run(tmp_path / 'run', (400, FIRE, 7.0))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('sys.argv', ['score', '--workdir=run', '--episodes=2', '--epsilon=0'])
  for name in ('environment.prepare', 'interrupts.install'):  # pytest's own are in place
    monkeypatch.setattr(f'experiments.runtime.{name}', lambda **_: None)
  score.main()
  assert capsys.readouterr().out == (
    'score 105.0 ± 0.0 (2 episodes, ε = 0; network after 1,600 frames, highest score of the run: '
    '7.0)\n'
  )


def test_episodes_that_need_not_end_are_not_begun(tmp_path, monkeypatch):
  monkeypatch.setattr(f'{__name__}.CONFIG', CONFIG.copy_and_resolve_references())
  CONFIG.evaluation.update({'epsilon': 0.05, 'max_frames': 0})
  run = write_run(tmp_path / 'run', (400, FIRE, 7.0))
  with pytest.raises(UserError, match=r'with ε = 0 an episode may never end'):
    best_network.score(run, 3, epsilon=0.0)


def test_a_run_of_the_older_format_is_named(tmp_path):
  run = write_run(tmp_path / 'run', (400, FIRE, 7.0))
  (run / 'config.json').write_text(json.dumps({'variant': 'breakout-wn', 'seed': 0}))
  with pytest.raises(UserError, match='is a run of an older version, whose format'):
    best_network.score(run, 3)
