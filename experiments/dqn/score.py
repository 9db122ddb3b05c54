"""Score of the best network of a run, played anew (Mnih et al. 2015: "evaluation procedure").

  python -m experiments.dqn.score --workdir runs/dqn/breakout-wn-paper/seed0 [--episodes 100]

The highest of many evaluations is high by luck, too. This plays other episodes with the network of
that evaluation, from its checkpoint. Writes `score-EPISODES.json` into the run, with another
`--epsilon` than that of the run `score-EPISODES-epsilon-E.json`; `--epsilon 1` is random play.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import config_dict

from experiments import results
from experiments.dqn import agent, environments, evaluation
from experiments.dqn.environments import FRAME_SKIP, Purpose
from experiments.dqn.train import BEST_METRIC, eval_metrics
from experiments.dqn.validate import validate_player
from experiments.training import checkpoints, environment, interrupts
from experiments.training.errors import ArgumentParser, UserError, one_line_errors, writing
from experiments.training.run import commit, write_json


def main() -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m experiments.dqn.score')
  parser.add_argument('--workdir', type=Path, required=True, help='directory of the run')
  parser.add_argument('--episodes', type=int, default=100, help='how many to play')
  parser.add_argument('--epsilon', type=float, help='probability of a random action')
  with one_line_errors():
    args = parser.parse_args()
    if args.episodes < 1:
      raise UserError(f'--episodes {args.episodes}: give 1 or more.')
    if args.epsilon is not None and not 0 <= args.epsilon <= 1:
      raise UserError(f'--epsilon {args.epsilon}: give a value between 0 and 1.')
    interrupts.install()
    environment.prepare()
    result = evaluate(args.workdir, args.episodes, args.epsilon)
    print(
      f'score {result["score"]:.1f} ± {result["standard_error"]:.1f} ({args.episodes} episodes, '
      f'ε = {result["epsilon"]:g}, network of {result["frames"]:,} frames, whose '
      f'{result["highest_score"]:.1f} was the highest score of the run)'
    )


def evaluate(workdir: Path, episodes: int, epsilon: float | None = None) -> dict[str, Any]:
  """Plays with the best network of a run, which may be in training, and writes the score into it.

  Args:
    workdir: directory of the run.
    episodes: how many to play, each with random numbers of its own.
    epsilon: probability of a random action; None: that of the run's evaluations.

  Returns:
    `score`, the mean return; `standard_error` of that mean; all `returns`; `episodes`, `epsilon`;
    `step` and `frames` of the checkpoint, and its `highest_score`; `commit` of the source.

  Raises:
    UserError: there is no such run, or it has no checkpoint of an evaluation.
  """
  if not workdir.is_dir():
    raise UserError(f'there is no directory {workdir}.')
  run = results.read(workdir)
  if run.config['experiment'] != 'dqn':
    raise UserError(f'{workdir} is a run of {run.config["experiment"]}, not of dqn.')
  config = config_dict.FrozenConfigDict(run.config)
  validate_player(config)
  name = f'score-{episodes}.json'
  if epsilon is None or epsilon == config.eval_epsilon:
    epsilon = config.eval_epsilon
  else:
    name = f'score-{episodes}-epsilon-{epsilon:g}.json'

  key = jax.random.fold_in(jax.random.key(config.seed), Purpose.SCORE)
  graphdef, state = agent.create(config, environments.num_actions(config.game), key)
  state, highest = checkpoints.restore_best(workdir / 'checkpoints', state, BEST_METRIC, max)
  act = jax.jit(functools.partial(agent.act, graphdef=graphdef))

  def policy(step: int, observations: np.ndarray) -> np.ndarray:
    """Of the episodes after those in `returns`."""
    step_key = jax.random.fold_in(jax.random.fold_in(key, len(returns)), step)
    return np.asarray(act(state.params, step_key, observations, epsilon))

  step = int(state.step)
  env_seeds = environments.seeds(config.seed, step, Purpose.SCORE, count=episodes)
  returns: list[float] = []
  with tqdm.tqdm(total=episodes, unit='episode', disable=None) as progress:
    while len(returns) < episodes:
      side_by_side = env_seeds[len(returns) :][: config.eval_envs]
      played = evaluation.play(policy, config, len(side_by_side), side_by_side)
      returns += played.ravel().tolist()
      progress.update(len(side_by_side))
  metrics = eval_metrics(np.array(returns))
  result = {
    'score': metrics['eval/score'],
    'standard_error': metrics['eval/standard_error'],
    'episodes': episodes,
    'epsilon': epsilon,
    'step': step,
    'frames': step * FRAME_SKIP,
    'highest_score': highest,
    'returns': returns,
    'commit': commit(),
  }
  with writing(workdir / name) as path:
    write_json(path, result)
  return result


if __name__ == '__main__':
  main()
