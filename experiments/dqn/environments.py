"""Atari games with the preprocessing of Mnih et al. (2015), played side by side.

The vector environment of the Arcade Learning Environment preprocesses in C++ threads. It repeats an
action for four frames, takes the maximum of the last two in gray and resizes it to 84×84 (area
interpolation). An observation is the newest four such frames, with black ones before the start of
the episode. An episode begins with 0 to 29 no-op frames and ends with the game: a lost life does
not reset the environment. `FIRE` is not pressed for the agent, and actions without an effect in a
game are left out.
"""

import enum
import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.dqn.network import SIDE, STACK
from experiments.dqn.rl_packages import roms, vector_env
from experiments.runtime.errors import UserError

FRAME_SKIP = 4  # frames of an agent step
FRAME_LIMIT = 2**31  # the emulator counts the frames of an episode in 32 bits
_NOOP_MAX = 30
_STEPS_APART = 4  # `random_play` takes every fourth observation, so that none share a frame

Arrays = dict[str, np.ndarray]


class Step(NamedTuple):
  """Results of one agent step in each of N games.

  Attributes:
    rewards: [N] int32, unclipped.
    terminal: [N] bool, a life or the game was lost, so the return after this step is 0.
    truncated: [N] bool, the episode reached its frame limit.
    returns: returns of the episodes that ended, in the order of the environments.
  """

  rewards: np.ndarray
  terminal: np.ndarray
  truncated: np.ndarray
  returns: list[float]


def make(
  game: str,
  num_envs: int,
  *,
  max_frames: int,
  repeat_action_probability: float,
  color: bool = False,
) -> vector_env.AtariVectorEnv:
  """Creates `num_envs` environments; an episode that ends restarts in the same step.

  Args:
    game: name in snake_case.
    num_envs: number of environments.
    max_frames: frame limit of an episode, not counting its no-op start; 0 means no limit.
    repeat_action_probability: probability that a frame repeats the previous frame's action.
    color: whether to return single frames [210, 160, 3] instead of observations.
  """
  look = {'grayscale': True, 'stack_num': STACK, 'img_height': SIDE, 'img_width': SIDE}
  if color:
    look = {'grayscale': False, 'stack_num': 1, 'img_height': 210, 'img_width': 160}
  return vector_env.AtariVectorEnv(
    game,
    num_envs,
    **look,
    frameskip=FRAME_SKIP,
    maxpool=True,
    noop_max=_NOOP_MAX,
    use_fire_reset=False,
    episodic_life=False,
    life_loss_info=False,
    reward_clipping=False,
    full_action_space=False,
    max_num_frames_per_episode=max_frames or FRAME_LIMIT - 1,
    repeat_action_probability=repeat_action_probability,
    autoreset_mode='SameStep',
  )


def description(game: str) -> dict[str, str]:
  """Package, version and game (`name`) and the SHA-256 of the ROM (`digest`)."""
  digest = hashlib.sha256(roms.get_rom_path(game).read_bytes()).hexdigest()
  return {'name': f'ale_py {importlib.metadata.version("ale_py")}/{game}', 'digest': digest}


def num_actions(game: str) -> int:
  """Number of actions that have an effect in a game."""
  env = make(game, 1, max_frames=FRAME_SKIP, repeat_action_probability=0.0)
  return int(env.single_action_space.n)


class Purpose(enum.IntEnum):
  """What environments are seeded for."""

  TRAINING = 0
  EVALUATION = 1
  PICTURE = 2
  SCORE = 3
  INITIALIZATION = 4


def seeds(seed: int, step: int, purpose: Purpose, *, count: int) -> np.ndarray:
  """Seeds of `count` environments, different for each seed of a run, step and purpose."""
  numbers = np.random.SeedSequence((seed, step, purpose)).generate_state(count)
  return (numbers >> 1).astype(np.int64)


def random_play(env: vector_env.AtariVectorEnv, count: int, seed: int) -> np.ndarray:
  """Observations [count, 4, 84, 84] of random play, every fourth step of each environment.

  `env` must be reset afterwards; `seed` is that of the run.
  """
  env_seeds = seeds(seed, 0, Purpose.INITIALIZATION, count=env.num_envs)
  rng = np.random.default_rng(env_seeds)
  env.reset(seed=env_seeds)
  collected: list[np.ndarray] = []
  while len(collected) * env.num_envs < count:
    for _ in range(_STEPS_APART):
      observations, *_ = env.step(rng.integers(env.single_action_space.n, size=env.num_envs))
    collected.append(observations)
  return np.concatenate(collected)[:count]


class Games:
  """Training games in lockstep that can be saved and restored.

  The vector environment cannot save its state, but a seed and the actions since determine this
  episode and all that follow. `save` returns the actions since each environment was last seeded,
  and `restore` replays them. To keep these short, an environment is reseeded now and then, when an
  episode ends. (Seeding takes 70 ms, too long for every episode.)

  Args:
    env: as `make` returns it.
    seed: seed of the run.
    reseed_every: steps after which each environment is reseeded at the end of its episode.

  Attributes:
    observations: [N, 4, 84, 84] uint8, current observations.
    ages: [N] agent steps since each episode began.
  """

  def __init__(self, env: vector_env.AtariVectorEnv, seed: int, reseed_every: int):
    self._env = env
    self._seed = seed
    self._reseed_every = reseed_every
    n = env.num_envs
    self._steps = 0  # per environment
    self._is_due = np.zeros(n, bool)  # for a new seed at the end of the episode
    self._seeds = seeds(seed, 0, Purpose.TRAINING, count=n)
    self._seeded_at = np.zeros(n, np.int64)  # in steps
    self._actions: list[np.ndarray] = []  # since the earliest `_seeded_at`
    self._returns = np.zeros(n)
    self.ages = np.zeros(n, np.int64)
    self.observations, info = env.reset(seed=self._seeds)
    self._lives = info['lives']

  def send(self, actions: np.ndarray) -> None:
    """Starts a step of the environments with actions [N]; `receive` must follow."""
    self._actions.append(actions.astype(np.uint8))
    self._env.send(actions.astype(np.int64))

  def receive(self) -> Step:
    """Waits for the step to end and returns its results."""
    self.observations, rewards, terminated, truncated, info = self._env.recv()
    lives = info['lives']
    is_over = terminated | truncated
    terminal = terminated | (~is_over & (lives < self._lives))  # at the end: of the next episode
    self._steps += 1
    self._returns += rewards
    returns = self._returns[is_over].tolist()
    self._returns[is_over] = 0
    self.ages = np.where(is_over, 0, self.ages + 1)
    self._lives = lives
    if (renewed := is_over & self._is_due).any():
      new = seeds(self._seed, self._steps, Purpose.TRAINING, count=len(lives))
      self._seeds[renewed] = new[renewed]
      self._seeded_at[renewed] = self._steps
      self._is_due[renewed] = False
      self._reset(renewed)
    if self._steps % self._reseed_every == 0:
      self._is_due[:] = True
    return Step(rewards, terminal, truncated & ~terminated, returns)

  def save(self) -> Arrays:
    """What `restore` needs."""
    kept = self._steps - int(self._seeded_at.min())
    self._actions = self._actions[len(self._actions) - kept :]
    return {
      'reseed_every': np.array(self._reseed_every),
      'is_due': self._is_due.copy(),
      'steps': np.array(self._steps),
      'seeds': self._seeds.copy(),
      'seeded_at': self._seeded_at.copy(),
      'actions': np.array(self._actions, np.uint8).reshape(kept, len(self._seeds)),
      'returns': self._returns.copy(),
      'ages': self.ages.copy(),
    }

  def restore(self, saved: Mapping[str, np.ndarray]) -> None:
    """Brings the games back to their state at `save` by replaying them.

    Raises:
      UserError: the games are of an earlier version, which seeded them at other times.
    """
    if 'reseed_every' not in saved:
      raise UserError(
        'the run is of an earlier version, whose games were seeded at other times; use an empty '
        '--workdir.'
      )
    self._steps = int(saved['steps'])
    self._seeds, self._seeded_at = saved['seeds'].copy(), saved['seeded_at'].copy()
    self._actions = list(saved['actions'])
    self._returns, self.ages = saved['returns'].copy(), saved['ages'].copy()
    self._is_due = saved['is_due'].copy()
    first = self._steps - len(self._actions)
    for step in range(first, self._steps + 1):
      if (seeded := self._seeded_at == step).any():
        self._reset(seeded)
      if step < self._steps:
        # An environment seeded later is reset then, so what it plays until then does not count.
        actions = self._actions[step - first].astype(np.int64)
        self.observations, _, _, _, info = self._env.step(actions)
        self._lives = info['lives']

  def _reset(self, mask: np.ndarray) -> None:
    """Resets the environments in `mask` [N] with their seeds."""
    self.observations, info = self._env.reset(seed=self._seeds[mask], options={'reset_mask': mask})
    self._lives = info['lives']
