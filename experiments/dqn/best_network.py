"""Scores the best network of a run on new episodes; the work behind the command `score`."""

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import config_dict

from experiments import results
from experiments.dqn import agent, environments, evaluation
from experiments.dqn.environments import FRAME_SKIP, Purpose
from experiments.dqn.evaluation import SCORE, Policy
from experiments.dqn.validate import check_ends, validate_player
from experiments.runtime import checkpoints
from experiments.runtime.errors import UserError, writing
from experiments.runtime.partial_results import PartialResults
from experiments.runtime.workdir import commit, write_json

Act = Callable[[jax.Array, np.ndarray], np.ndarray]  # key, observations → actions


def score(workdir: Path, episodes: int, epsilon: float | None = None) -> dict[str, Any]:
  """Plays new episodes with the network of the highest score and writes the result into the run.

  Args:
    workdir: directory of the run, which may still be training.
    episodes: number of episodes, each from its own seed.
    epsilon: probability of a random action; defaults to that of the run's evaluations.

  Returns:
    `score`, the mean return, and its `standard_error`; all `returns`; `episodes`; `epsilon`;
    `step`, `frames` and `highest_score` of the network; digests of its `checkpoint` and of the game
    (`data`); `commit` of the source.

  Raises:
    UserError: there is no such run, or no checkpoint of its highest score.
  """
  run = results.read_of('dqn', workdir)
  config = config_dict.FrozenConfigDict(run.config)
  validate_player(config)
  epsilon = config.evaluation.epsilon if epsilon is None else epsilon
  check_ends(config, epsilon)
  if SCORE not in run.metrics:
    raise UserError(f'{workdir} has no evaluation yet.')
  highest = run.metrics[SCORE].max()
  step = int(run.metrics['step'][run.metrics[SCORE] == highest].max())  # the latest, on a tie
  name = f'score-{episodes}'
  if epsilon != config.evaluation.epsilon:
    name = f'{name}-epsilon-{epsilon:g}'

  act = _restore_act(config, workdir, step, epsilon)
  key = {
    'checkpoint': checkpoints.checksum(workdir / 'checkpoints', step),
    'data': environments.description(config.variant.game)['digest'],
    'config': hashlib.sha256(config.to_json(sort_keys=True).encode()).hexdigest(),
    'epsilon': epsilon,
  }
  with contextlib.closing(PartialResults(workdir / f'{name}.jsonl', key)) as parts:
    returns = _play(act, config, step, episodes, parts)
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


def _restore_act(
  config: config_dict.FrozenConfigDict, workdir: Path, step: int, epsilon: float
) -> Act:
  """The ε-greedy actions of the network in the checkpoint of `step`."""
  num_actions = environments.num_actions(config.variant.game)
  network = agent.create_network(config, num_actions, jax.random.key(config.seed))
  graphdef, state = agent.create(config, network)
  params = checkpoints.restore_at(workdir / 'checkpoints', step, state).params
  act = jax.jit(functools.partial(agent.act, graphdef=graphdef))
  return lambda key, observations: np.asarray(act(params, key, observations, epsilon))


def _policy(act: Act, seed: int) -> Policy:
  """Acts with noise that differs in every step and for every seed."""
  key = jax.random.key(seed)
  return lambda step, observations: act(jax.random.fold_in(key, step), observations)


def _play(
  act: Act,
  config: config_dict.FrozenConfigDict,
  step: int,
  episodes: int,
  parts: PartialResults,
) -> list[float]:
  """Returns of `episodes` episodes; plays only those that are not in `parts` yet."""
  env_seeds = environments.seeds(config.seed, step, Purpose.SCORE, count=episodes)
  starts = range(0, episodes, config.evaluation.num_envs)
  with tqdm.tqdm(total=episodes, unit='episode', disable=None) as progress:
    for start in starts:
      seeds = env_seeds[start : start + config.evaluation.num_envs]
      if start not in parts.done:
        # One step per environment: each plays one episode.
        played = evaluation.play(_policy(act, seeds[0]), config, len(seeds), seeds)
        parts.add(start, played)
      progress.update(len(seeds))
  return [value for start in starts for value in parts.done[start]]
