"""Checks of config values that the experiments share. Each raises a `UserError` naming the key."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from experiments.runtime.errors import UserError
from experiments.training.data import Dataset


def require(config: config_dict.FrozenConfigDict, key: str) -> Any:
  """The value of a key such as 'model.width', which a user's own config file may lack."""
  value = config
  for part in key.split('.'):
    if not isinstance(value, Mapping | config_dict.ConfigDict) or part not in value:
      raise UserError(f'the config has no {key!r}, which this experiment needs.')
    value = value[part]
  return value


def choose(config: config_dict.FrozenConfigDict, key: str, choices: Sequence[str]) -> None:
  """Checks that a value is one of `choices`."""
  if (value := require(config, key)) not in choices:
    raise UserError(f'config.{key}={value}: choose one of {", ".join(map(str, choices))}.')


def check(
  config: config_dict.FrozenConfigDict,
  keys: Sequence[str],
  is_valid: Callable[[float], bool],
  requirement: str,
) -> None:
  """Checks that the values of `keys` are finite numbers that satisfy `is_valid`."""
  for key in keys:
    value = require(config, key)
    is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if not (is_finite and is_valid(value)):
      raise UserError(f'config.{key}={value} {requirement}.')


def check_switches(config: config_dict.FrozenConfigDict, keys: Sequence[str]) -> None:
  """Checks that the values of `keys` are True or False."""
  for key in keys:
    if not isinstance(value := require(config, key), bool):
      raise UserError(f'config.{key}={value} must be True or False.')


def check_common(config: config_dict.FrozenConfigDict, *, below: int = 2**32) -> None:
  """Checks the seed (0 ≤ seed < `below`), the number of epochs and `config.run`."""
  exponent = below.bit_length() - 1
  check(config, ('seed',), lambda x: 0 <= x < below, f'must be at least 0 and below 2**{exponent}')
  keys = ('epochs', 'run.log_every', 'run.checkpoint_every', 'run.keep_checkpoints')
  check(config, keys, lambda value: value >= 1, 'must be 1 or more')


def check_image_run(config: config_dict.FrozenConfigDict) -> None:
  """Checks what the experiments on images have in common."""
  check_common(config)
  check(config, ('batch_size', 'run.eval_batch_size'), lambda x: x >= 1, 'must be 1 or more')
  check(config, ('data.train_examples',), lambda value: value >= 0, 'must not be negative')
  check(config, ('run.steps_per_call',), lambda value: value >= 1, 'must be 1 or more')
  for key in ('run.log_every', 'run.checkpoint_every'):
    if (value := require(config, key)) % config.run.steps_per_call:
      raise UserError(
        f'config.{key}={value} must be a multiple of config.run.steps_per_call='
        f'{config.run.steps_per_call}.'
      )
  check_switches(config, ('run.diagnostics',))


def check_sizes(
  config: config_dict.FrozenConfigDict, key: str, requirement: str, count: int | None = None
) -> None:
  """Checks that a value is a tuple of positive integers, `count` of them (None: one or more)."""
  sizes = require(config, key)
  is_sequence = isinstance(sizes, tuple) and len(sizes) == (count or len(sizes) or 1)
  if not (is_sequence and all(isinstance(size, int) and size >= 1 for size in sizes)):
    raise UserError(f'config.{key}={sizes} must be {requirement}, 1 or more each.')


def check_examples(
  config: config_dict.FrozenConfigDict,
  dataset: Dataset,
  batches: Sequence[str] = ('batch_size', 'init.examples'),
) -> None:
  """Checks that the data set has enough training images, also for the keys `batches`."""
  available = len(dataset.train)
  if config.data.train_examples > available:
    raise UserError(
      f'config.data.train_examples={config.data.train_examples}: {dataset.name} has {available} '
      'training images.'
    )
  used = config.data.train_examples or available
  for key in batches:
    if (size := require(config, key)) > used:
      raise UserError(f'config.{key}={size} is more than the {used} training images.')
  steps = used // config.batch_size
  if steps % config.run.steps_per_call:
    raise UserError(
      f'config.run.steps_per_call={config.run.steps_per_call} must divide the {steps} steps of an '
      'epoch.'
    )
  if config.epochs * steps >= 2**31:
    raise UserError(f'config.epochs={config.epochs} takes 2**31 steps or more; lower it.')
