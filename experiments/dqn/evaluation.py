"""Evaluation (Mnih et al. 2015): whole episodes, with rewards as the game counts them."""

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import config_dict

from experiments.dqn import environments
from experiments.dqn.rl_packages import vector_env
from experiments.runtime import interrupts

SCORE = 'eval/score'  # name of the metric

# Step of the evaluation, observations [N, 4, 84, 84] → actions [N].
Policy = Callable[[int, np.ndarray], np.ndarray]


def play(
  policy: Policy, config: config_dict.FrozenConfigDict, steps: int, seeds: np.ndarray
) -> list[float]:
  """Returns of the episodes that several environments play in a number of agent steps.

  Each environment plays an equal share of the steps, and the episode that it is in by then to its
  end. To leave that one out would prefer short episodes, as long ones are rarely over in time.

  Args:
    policy: chooses the actions.
    config: of the run.
    steps: how many in all, a multiple of the number of environments N. With N of them each
      environment plays one episode.
    seeds: [N], one for each environment.

  Returns:
    Those of the first environment, in order; then those of the second, and so on.

  Raises:
    Interrupted: by a signal, in a training loop.
  """
  env = _make(config, len(seeds), max_frames=config.evaluation.max_frames)
  observations, _ = env.reset(seed=seeds)
  returns: list[list[float]] = [[] for _ in seeds]
  total = np.zeros(len(seeds))
  counts = np.ones(len(seeds), bool)  # whether the episode began within the share of steps
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
  """One episode in colour: its frames [T, 210, 160, 3], one for each agent step, and its return.

  A second environment with the same seed and actions shows the same; the agent sees the first.

  Args:
    policy: chooses the actions.
    config: of the run.
    seeds: [1].
    max_frames: it is cut off there, or where evaluation cuts it off.
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
