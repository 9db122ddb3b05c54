"""Evaluation (Mnih et al. 2015): whole episodes, with rewards as the game counts them."""

from collections.abc import Callable

import numpy as np
from ml_collections import config_dict

from experiments.dqn import environments
from experiments.training import interrupts

# Step of the evaluation, observations [N, 4, 84, 84] → actions [N].
Policy = Callable[[int, np.ndarray], np.ndarray]


def play(
  policy: Policy, config: config_dict.FrozenConfigDict, episodes: int, seeds: np.ndarray
) -> np.ndarray:
  """Returns of the first episodes of each of several environments.

  Each environment plays an equal share to the end. To take whichever episodes end first would
  prefer short ones.

  Args:
    policy: chooses the actions.
    config: of the run.
    episodes: how many in all, a multiple of the number of environments.
    seeds: [N], one for each environment.

  Returns:
    [N, episodes / N].

  Raises:
    Interrupted: by a signal, in a training loop.
  """
  share = episodes // len(seeds)
  env = _make(config, len(seeds))
  observations, _ = env.reset(seed=seeds)
  returns = np.zeros((len(seeds), share + 1))  # the last column takes what does not count
  episode = np.zeros(len(seeds), int)
  step = 0
  while (episode < share).any():
    interrupts.check()
    actions = policy(step, observations).astype(np.int64)
    observations, rewards, terminated, truncated, _ = env.step(actions)
    returns[np.arange(len(seeds)), episode] += rewards
    episode = np.minimum(episode + (terminated | truncated), share)
    step += 1
  return returns[:, :share]


def record(
  policy: Policy, config: config_dict.FrozenConfigDict, seeds: np.ndarray
) -> tuple[np.ndarray, float]:
  """One episode in colour: its frames [T, 210, 160, 3], one for each agent step, and its return.

  A second environment with the same seed and actions shows the same; the agent sees the first.

  Args:
    policy: chooses the actions.
    config: of the run.
    seeds: [1].
  """
  env, shown = _make(config, 1), _make(config, 1, color=True)
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


def _make(config: config_dict.FrozenConfigDict, num_envs: int, *, color: bool = False):
  return environments.make(
    config.game,
    num_envs,
    max_frames=config.eval_max_frames,
    repeat_action_probability=config.repeat_action_probability,
    color=color,
  )
