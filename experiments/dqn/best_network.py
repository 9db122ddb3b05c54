"""The best network of a run in episodes that did not choose it."""

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import config_dict

from experiments import results
from experiments.dqn import agent, environments, evaluation
from experiments.dqn.environments import FRAME_SKIP, Purpose
from experiments.dqn.evaluation import SCORE
from experiments.dqn.validate import check_ends, validate_player
from experiments.runtime import checkpoints
from experiments.runtime.errors import UserError, writing
from experiments.runtime.partial_results import PartialResults
from experiments.runtime.workdir import commit, write_json


def score(workdir: Path, episodes: int, epsilon: float | None = None) -> dict[str, Any]:
  """Plays with the network of the highest score and writes its score into the run.

  Args:
    workdir: directory of the run, which may be in training.
    episodes: how many to play, each from a seed of its own.
    epsilon: probability of a random action; None: that of the run's evaluations.

  Returns:
    `score`, the mean return; `standard_error` of that mean; all `returns`; `episodes`, `epsilon`;
    `step` and `frames` of the network, and its `highest_score`; digests of its `checkpoint` and of
    the game (`data`); `commit` of the source.

  Raises:
    UserError: there is no such run, or not the checkpoint of its highest score.
  """
  run = results.read_of('dqn', workdir)
  config = config_dict.FrozenConfigDict(run.config)
  validate_player(config)
  epsilon = config.evaluation.epsilon if epsilon is None else epsilon
  check_ends(config, epsilon)
  if SCORE not in run.metrics:
    raise UserError(f'{workdir} has no evaluation yet.')
  highest = run.metrics[SCORE].max()
  step = int(run.metrics['step'][run.metrics[SCORE] == highest].max())  # latest of equals
  name = f'score-{episodes}'
  if epsilon != config.evaluation.epsilon:
    name = f'{name}-epsilon-{epsilon:g}'

  num_actions = environments.num_actions(config.variant.game)
  network = agent.create_network(config, num_actions, jax.random.key(config.seed))
  graphdef, state = agent.create(config, network)
  state = checkpoints.restore_at(workdir / 'checkpoints', step, state)
  act = jax.jit(functools.partial(agent.act, graphdef=graphdef))
  env_seeds = environments.seeds(config.seed, step, Purpose.SCORE, count=episodes)
  starts = range(0, episodes, config.evaluation.num_envs)
  path = workdir / f'{name}.jsonl'
  key = {
    'checkpoint': checkpoints.checksum(workdir / 'checkpoints', step),
    'data': environments.description(config.variant.game)['digest'],
    'config': hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest(),
    'epsilon': epsilon,
  }
  with (
    contextlib.closing(PartialResults(path, key)) as parts,
    tqdm.tqdm(total=episodes, unit='episode', disable=None) as progress,
  ):
    for start in starts:
      side_by_side = env_seeds[start : start + config.evaluation.num_envs]
      if start not in parts.done:
        noise = jax.random.key(side_by_side[0])
        policy = lambda step, observations, noise=noise: np.asarray(
          act(state.params, jax.random.fold_in(noise, step), observations, epsilon)
        )
        # One step for each: every environment plays one episode.
        played = evaluation.play(policy, config, len(side_by_side), side_by_side)
        parts.add(start, played)
      progress.update(len(side_by_side))

  returns = [value for start in starts for value in parts.done[start]]
  metrics = evaluation.metrics(returns)
  result = {
    'score': metrics[SCORE],
    'standard_error': metrics['eval/standard_error'],
    'episodes': episodes,
    'epsilon': epsilon,
    'step': step,
    'frames': step * FRAME_SKIP,
    'highest_score': float(highest),
    'returns': returns,
    'checkpoint': key['checkpoint'],
    'data': key['data'],
    'commit': commit(),
  }
  with writing(workdir / f'{name}.json') as path:
    write_json(path, result)
  return result
