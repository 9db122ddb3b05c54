"""Checks a config before anything is written."""

import difflib
from typing import Any

import psutil
from ml_collections import config_dict

from experiments.dqn import replay
from experiments.dqn.environments import FRAME_SKIP
from experiments.dqn.extra import roms
from experiments.training.checks import check, check_sizes, choose, require
from experiments.training.errors import UserError
from experiments.training.precision import DTYPES

_AT_LEAST_ONE = (
  'num_envs', 'max_frames', 'replay_capacity', 'update_period', 'target_period', 'epsilon_steps',
  'epochs', 'steps_per_epoch', 'eval_episodes', 'final_eval_episodes', 'log_every',
  'checkpoint_every', 'keep_checkpoints',
)  # fmt: skip
_PROBABILITIES = ('discount', 'epsilon_start', 'epsilon_end')
# Of the network, its optimiser and the evaluation.
_SIZES = ('hidden', 'batch_size', 'eval_envs', 'eval_max_frames')
_POSITIVE = ('learning_rate', 'eps', 'rmsprop_eps')
_BELOW_ONE = ('b1', 'b2', 'rmsprop_decay', 'repeat_action_probability')
_MULTIPLES_OF_NUM_ENVS = (
  'replay_capacity', 'learning_starts', 'target_period', 'steps_per_epoch', 'log_every',
  'checkpoint_every',
)  # fmt: skip
# Their ROMs are there, but the emulator ends the process when it is to play one of them alone.
_FOR_TWO = ('combat', 'joust', 'maze_craze', 'warlords')


def validate(config: config_dict.FrozenConfigDict) -> None:
  """Checks the values, and that there is memory for the replay.

  Raises:
    UserError: something cannot be used; the message names it.
  """
  validate_player(config)
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, ('epsilon_delay',), lambda value: value >= 0, 'must be 0 or more')
  check(config, _PROBABILITIES, lambda value: 0 <= value <= 1, 'must be between 0 and 1')
  _check_steps(config)
  _check_memory(config)


def validate_player(config: config_dict.FrozenConfigDict) -> None:
  """Checks the values that it takes to play with the network of a run.

  Raises:
    UserError: something cannot be used; the message names it.
  """
  _check_game(require(config, 'game'))
  choose(config, 'param', ('plain', 'wn'))
  choose(config, 'dtype', DTYPES)
  if config.variant != f'{config.game}-{config.param}':
    raise UserError(
      f'config.variant={config.variant} is not the game and parameterisation of the config; choose '
      'these in --config FILE:SPEC.'
    )
  choose(config, 'optimizer', ('adamax', 'rmsprop'))
  check(config, _SIZES, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, ('eval_epsilon',), lambda value: 0 <= value <= 1, 'must be between 0 and 1')
  check(config, ('seed',), lambda value: 0 <= value < 2**31, 'must be at least 0 and below 2**31')
  check_sizes(config, 'features', 'three numbers', count=3)


def _check_game(game: Any) -> None:
  if not isinstance(game, str):
    raise UserError(f'config.game={game} must be the name of a game.')
  if game in _FOR_TWO:
    raise UserError(f'the game {game!r} is for two players; choose one that is played alone.')
  games = sorted(set(roms.get_all_rom_ids()) - set(_FOR_TWO))
  if game not in games:
    near = difflib.get_close_matches(game, games, n=3, cutoff=0.6)
    hint = f'; did you mean {" or ".join(near)}?' if near else '; names are in snake_case.'
    raise UserError(f'unknown game {game!r}{hint}')


def _check_steps(config: config_dict.FrozenConfigDict) -> None:
  n = config.num_envs
  if config.max_frames <= FRAME_SKIP:
    raise UserError(
      f'config.max_frames={config.max_frames} must be above {FRAME_SKIP}, the frames of an agent '
      'step: nothing is learnt from a step that ends its episode for its length.'
    )
  if n % config.update_period and config.update_period % n:
    raise UserError(
      f'config.num_envs={n} must be a multiple or a divisor of config.update_period='
      f'{config.update_period}, as updates follow steps of all environments.'
    )
  for key in _MULTIPLES_OF_NUM_ENVS:
    if config[key] % n:
      raise UserError(f'config.{key}={config[key]} must be a multiple of config.num_envs={n}.')
  for key in ('eval_episodes', 'final_eval_episodes'):
    if config[key] % config.eval_envs:
      raise UserError(
        f'config.{key}={config[key]} must be a multiple of config.eval_envs={config.eval_envs}.'
      )
  if config.learning_starts < 2 * n:
    raise UserError(
      f'config.learning_starts={config.learning_starts} must be {2 * n} or more: two steps of each '
      'environment.'
    )
  if config.replay_capacity < 8 * n:
    raise UserError(
      f'config.replay_capacity={config.replay_capacity} must be {8 * n} or more: eight steps of '
      'each environment.'
    )


def _check_memory(config: config_dict.FrozenConfigDict) -> None:
  # The rows since the last checkpoint are copied when they are written, and when they are read.
  steps = config.replay_capacity + min(config.replay_capacity, config.checkpoint_every)
  needed, available = replay.num_bytes(steps), psutil.virtual_memory().available
  if needed > available:
    raise UserError(
      f'config.replay_capacity={config.replay_capacity} needs {needed / 2**30:.1f} GiB of memory, '
      f'and {available / 2**30:.1f} GiB are available; lower it.'
    )
