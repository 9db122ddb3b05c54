"""Checks a config before anything is written."""

import difflib
from typing import Any

import psutil
from ml_collections import config_dict

from configs.variants import PARAMETERIZATIONS
from experiments.dqn import replay
from experiments.dqn.agent import updates_at_once
from experiments.dqn.environments import FRAME_LIMIT, FRAME_SKIP
from experiments.dqn.rl_packages import roms
from experiments.runtime.errors import UserError
from experiments.training.checks import check, check_common, check_sizes, choose, require
from experiments.training.layers import DTYPES

_AT_LEAST_ONE = (
  'env.num_envs',
  'init.examples',
  'replay.capacity',
  'learning.update_period',
  'learning.target_period',
  'exploration.steps',
  'steps_per_epoch',
  'evaluation.steps',
)
_NOT_NEGATIVE = ('replay.learning_starts', 'exploration.delay')
_PROBABILITIES = ('learning.discount', 'exploration.start', 'exploration.end')
_MULTIPLES_OF_NUM_ENVS = (
  'replay.capacity',
  'replay.learning_starts',
  'steps_per_epoch',
  'run.log_every',
  'run.checkpoint_every',
)
# Of the network, its optimizer and the evaluation: all that `validate_player` checks.
_SIZES = ('model.hidden', 'replay.batch_size', 'evaluation.num_envs')
_POSITIVE = (
  'model.init_std',
  'init.scale',
  'optimizer.learning_rate',
  'optimizer.eps',
  'optimizer.rmsprop_eps',
)
_BELOW_ONE = (
  'optimizer.b1',
  'optimizer.b2',
  'optimizer.rmsprop_decay',
  'env.repeat_action_probability',
)
_MAX_FRAMES = ('env.max_frames', 'evaluation.max_frames')
# Games for two players: in single-player mode the emulator aborts the process.
_FOR_TWO = ('combat', 'joust', 'maze_craze', 'warlords')


def validate(config: config_dict.FrozenConfigDict) -> None:
  """Checks the config, and that there is enough memory for the replay.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  validate_player(config)
  check_ends(config, config.evaluation.epsilon)
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, _NOT_NEGATIVE, lambda value: value >= 0, 'must not be negative')
  check(config, _PROBABILITIES, lambda value: 0 <= value <= 1, 'must be between 0 and 1')
  _check_steps(config)
  _check_memory(config)


def validate_player(config: config_dict.FrozenConfigDict) -> None:
  """Checks the values needed to play with the network of a run.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  check_common(config, below=2**31)
  _check_game(require(config, 'variant.game'))
  choose(config, 'variant.parameterization', PARAMETERIZATIONS)
  choose(config, 'model.dtype', DTYPES)
  choose(config, 'optimizer.name', ('adamax', 'rmsprop'))
  check(config, _SIZES, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, ('evaluation.epsilon',), lambda x: 0 <= x <= 1, 'must be between 0 and 1')
  check(
    config, _MAX_FRAMES, lambda x: 0 <= x < FRAME_LIMIT, 'must be 0, for no limit, or below 2**31'
  )
  check_sizes(config, 'model.features', 'three numbers', count=3)


def check_ends(config: config_dict.FrozenConfigDict, epsilon: float) -> None:
  """Checks that evaluation episodes with `epsilon` end.

  Raises:
    UserError: they may not: ε is 0, and so is their frame limit.
  """
  if not epsilon and not config.evaluation.max_frames:
    raise UserError(
      'with ε = 0 an episode may never end, because config.evaluation.max_frames=0 sets no limit; '
      'raise either.'
    )


def _check_game(game: Any) -> None:
  if game in _FOR_TWO:
    raise UserError(f'the game {game!r} is for two players; choose a single-player game.')
  games = sorted(set(roms.get_all_rom_ids()) - set(_FOR_TWO))
  if game not in games:
    near = difflib.get_close_matches(str(game), games, n=3, cutoff=0.6)
    hint = f'; did you mean {" or ".join(near)}?' if near else '; names are in snake_case.'
    raise UserError(f'unknown game {game!r}{hint}')


def _check_steps(config: config_dict.FrozenConfigDict) -> None:
  n, period = config.env.num_envs, config.learning.update_period
  if 0 < config.env.max_frames <= FRAME_SKIP:
    raise UserError(
      f'config.env.max_frames={config.env.max_frames} must be above {FRAME_SKIP}, the frames of an '
      'agent step, or 0 for no limit: a step that reaches the limit is not learnt from.'
    )
  if n % period and period % n:
    raise UserError(
      f'config.env.num_envs={n} must be a multiple or a divisor of config.learning.update_period='
      f'{period}: updates follow a step of all environments.'
    )
  for key in _MULTIPLES_OF_NUM_ENVS:
    if (value := require(config, key)) % n:
      raise UserError(f'config.{key}={value} must be a multiple of config.env.num_envs={n}.')
  if config.learning.target_period % (at_once := updates_at_once(n, period)):
    raise UserError(
      f'config.learning.target_period={config.learning.target_period} must be a multiple of '
      f'{at_once}, the updates after each step of all environments.'
    )
  if config.evaluation.steps % config.evaluation.num_envs:
    raise UserError(
      f'config.evaluation.steps={config.evaluation.steps} must be a multiple of '
      f'config.evaluation.num_envs={config.evaluation.num_envs}.'
    )
  if config.replay.learning_starts < 2 * n:
    raise UserError(
      f'config.replay.learning_starts={config.replay.learning_starts} must be {2 * n} or more, two '
      'steps of each environment.'
    )
  if config.replay.capacity < 8 * n:
    raise UserError(
      f'config.replay.capacity={config.replay.capacity} must be {8 * n} or more, eight steps of '
      'each environment.'
    )
  if config.epochs * config.steps_per_epoch >= 2**31:
    raise UserError(f'config.epochs={config.epochs} takes 2**31 agent steps or more; lower it.')


def _check_memory(config: config_dict.FrozenConfigDict) -> None:
  # Rows since the last checkpoint are copied when they are written and when they are read.
  capacity = config.replay.capacity
  steps = capacity + min(capacity, config.run.checkpoint_every)
  needed, available = replay.num_bytes(steps), psutil.virtual_memory().available
  if needed > available:
    raise UserError(
      f'config.replay.capacity={capacity} needs {needed / 2**30:.1f} GiB of memory, '
      f'and {available / 2**30:.1f} GiB are available; lower it.'
    )
