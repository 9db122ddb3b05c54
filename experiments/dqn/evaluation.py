"""Plays whole episodes with a policy and sums their unclipped rewards (Mnih et al. 2015)."""

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import config_dict

from experiments.dqn import environments
from experiments.dqn.rl_packages import vector_env
from experiments.runtime import interrupts

SCORE = 'eval/score'  # the metric's name

# Step within the evaluation, observations [N, 4, 84, 84] → actions [N].
Policy = Callable[[int, np.ndarray], np.ndarray]


def play(
  policy: Policy, config: config_dict.FrozenConfigDict, steps: int, seeds: np.ndarray
) -> list[float]:
  """Returns of the episodes that N environments play in `steps` agent steps.

  Each environment plays `steps / N` steps and then finishes its episode: leaving that episode out
  would favor short ones.

  Args:
    policy: chooses the actions.
    config: config of the run.
    steps: total over the environments, a multiple of N. With N steps, each environment plays one
      episode.
    seeds: [N], one per environment.

  Returns:
    Returns of the first environment in order, then of the second, and so on.

  Raises:
    Interrupted: a signal arrived in a training loop.
  """
  env = _make(config, len(seeds), max_frames=config.evaluation.max_frames)
  observations, _ = env.reset(seed=seeds)
  returns: list[list[float]] = [[] for _ in seeds]
  total = np.zeros(len(seeds))
  counts = np.ones(len(seeds), bool)  # whether the episode began within its steps
  step = 0
  while counts.any():
    interrupts.check()
    actions = policy(step, observations).astype(np.int64)
    observations, rewards, terminated, truncated, _ = env.step(actions)
    step += 1
    total += rewards
    is_over = terminated | truncated
    for i in np.flatnonzero(counts & is_over):
      returns[i].append(float(total[i]))
    total[is_over] = 0
    counts &= ~is_over | (step < steps // len(seeds))
  return [value for of_one in returns for value in of_one]


def metrics(returns: Sequence[float]) -> dict[str, float]:
  """Mean return, its standard error (0 for one episode) and the number of episodes."""
  count = len(returns)
  error = float(np.std(returns, ddof=1) / np.sqrt(count)) if count > 1 else 0.0
  return {
    SCORE: float(np.mean(returns)),
    'eval/standard_error': error,
    'eval/episodes': float(count),
  }


def record(
  policy: Policy, config: config_dict.FrozenConfigDict, seeds: np.ndarray, *, max_frames: int
) -> tuple[np.ndarray, float]:
  """Colour frames [T, 210, 160, 3] of one episode, one per agent step, and its return.

  The agent sees one environment; a second, with the same seed and actions, gives the frames.

  Args:
    policy: chooses the actions.
    config: config of the run.
    seeds: [1].
    max_frames: limit of the episode, if below that of evaluations.
  """
  limit = min(max_frames, config.evaluation.max_frames or max_frames)
  env = _make(config, 1, max_frames=limit)
  shown = _make(config, 1, max_frames=limit, color=True)
  observations, _ = env.reset(seed=seeds)
  frames = [shown.reset(seed=seeds)[0][0, -1]]
  total, is_over = 0.0, False
  while not is_over:
    actions = policy(len(frames) - 1, observations).astype(np.int64)
    observations, rewards, terminated, truncated, _ = env.step(actions)
    total += float(rewards[0])
    is_over = bool(terminated[0] | truncated[0])
    frame, _, _, _, info = shown.step(actions)
    frames.append(info['final_obs'][0, -1] if is_over else frame[0, -1])
  return np.stack(frames), total


def _make(
  config: config_dict.FrozenConfigDict, num_envs: int, *, max_frames: int, color: bool = False
) -> vector_env.AtariVectorEnv:
  return environments.make(
    config.variant.game,
    num_envs,
    max_frames=max_frames,
    repeat_action_probability=config.env.repeat_action_probability,
    color=color,
  )
