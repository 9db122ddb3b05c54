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
from experiments.dqn import agent, environments, evaluation, score
from experiments.dqn.environments import Purpose
from experiments.training.checkpoints import Checkpoints
from experiments.training.errors import UserError

NOOP, FIRE = 0, 1  # of Space Invaders
CONFIG = dqn.get_config('space_invaders-wn,tiny')
CONFIG.update({'eval_epsilon': 0.0, 'eval_max_frames': 1200, 'eval_envs': 3})


def always(action, step):
  """The state of an agent whose network prefers one action, whatever it sees."""
  graphdef, state = agent.create(CONFIG, 6, jax.random.key(0))
  network = nnx.merge(graphdef, jax.tree.map(jnp.zeros_like, state.params))
  network.out.bias[...] = jax.nn.one_hot(action, 6)
  train = dataclasses.replace(state.train, params=nnx.state(network, nnx.Param))
  return dataclasses.replace(state, train=train, step=jnp.int32(step))


def write_run(path, *checkpoints):
  """A run with one checkpoint for each (step, action, score or None)."""
  path.mkdir()
  (path / 'config.json').write_text(CONFIG.to_json())
  (path / 'metrics.jsonl').write_text('{"step": 400, "epoch": 1.0, "seconds": 9.0}\n')
  writer = Checkpoints(path / 'checkpoints', keep=1, best_metric='eval/score', best=max)
  for step, action, value in checkpoints:
    writer.save(always(action, step), {} if value is None else {'eval/score': value})
  writer.close()
  return path


def test_it_is_that_of_the_best_network_in_other_episodes(tmp_path):
  workdir = write_run(tmp_path / 'run', (400, FIRE, 7.0), (800, NOOP, 2.0))
  result = score.evaluate(workdir, 5)
  seeds = environments.seeds(CONFIG.seed, 400, Purpose.SCORE, count=5)
  assert len(set(seeds)) == 5
  assert not set(seeds) & set(environments.seeds(CONFIG.seed, 400, Purpose.EVALUATION, count=5))
  shoot = lambda step, observations: np.full(len(observations), FIRE)
  expected = [
    evaluation.play(shoot, config_dict.FrozenConfigDict(CONFIG), 1, seed[None]).item()
    for seed in seeds
  ]
  assert result['returns'] == expected and min(expected) > 0
  assert result['score'] == np.mean(expected)
  assert result['standard_error'] == pytest.approx(np.std(expected, ddof=1) / np.sqrt(5))
  assert (result['step'], result['frames'], result['highest_score']) == (400, 1600, 7.0)
  assert (result['episodes'], result['epsilon']) == (5, 0.0)
  assert result == json.loads((workdir / 'score-5.json').read_text())
  assert result == score.evaluate(workdir, 5)


def test_random_play_does_not_depend_on_the_network(tmp_path):
  runs = [write_run(tmp_path / f'run{action}', (400, action, 1.0)) for action in (NOOP, FIRE)]
  first, second = (score.evaluate(run, 4, epsilon=1.0) for run in runs)
  assert first == second == json.loads((runs[0] / 'score-4-epsilon-1.json').read_text())
  assert len(set(first['returns'])) > 1


def test_a_run_without_an_evaluation_has_no_score(tmp_path):
  with pytest.raises(UserError, match='there is no checkpoint of an evaluation in'):
    score.evaluate(write_run(tmp_path / 'run', (200, FIRE, None)), 3)
