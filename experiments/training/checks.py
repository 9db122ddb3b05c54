"""Checks of config values that the experiments share."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import config_dict

from experiments.training.data import Dataset
from experiments.training.errors import UserError


def require(config: config_dict.FrozenConfigDict, key: str) -> Any:
  """The value of a key, which the config of a run or of a user's own file may lack.

  Raises:
    UserError: it does.
  """
  if key not in config:
    raise UserError(f'the config has no {key!r}, which this experiment needs.')
  return config[key]


def choose(config: config_dict.FrozenConfigDict, key: str, choices: Sequence[str]) -> None:
  """Checks that a value is one of `choices`.

  Raises:
    UserError: it is not.
  """
  if require(config, key) not in choices:
    raise UserError(f'config.{key}={config[key]}: choose one of {", ".join(choices)}.')


def check(
  config: config_dict.FrozenConfigDict,
  keys: Sequence[str],
  is_valid: Callable[[float], bool],
  requirement: str,
) -> None:
  """Checks that the values of `keys` are numbers, finite and valid.

  Raises:
    UserError: one is not; the message names its key and the requirement.
  """
  for key in keys:
    value = require(config, key)
    is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if not (is_finite and is_valid(value)):
      raise UserError(f'config.{key}={value} {requirement}.')


def check_switches(config: config_dict.FrozenConfigDict, keys: Sequence[str]) -> None:
  """Checks that the values of `keys` are True or False.

  Raises:
    UserError: one is not.
  """
  for key in keys:
    if not isinstance(require(config, key), bool):
      raise UserError(f'config.{key}={config[key]} must be True or False.')


def check_sizes(
  config: config_dict.FrozenConfigDict, key: str, requirement: str, count: int | None = None
) -> None:
  """Checks that a value is a sequence of whole numbers, 1 or more each.

  Args:
    config: of the run.
    key: of the value.
    requirement: for the message.
    count: how many numbers; None: one or more.

  Raises:
    UserError: it is not.
  """
  sizes = require(config, key)
  is_sequence = isinstance(sizes, tuple) and len(sizes) == (count or len(sizes) or 1)
  if not (is_sequence and all(isinstance(size, int) and size >= 1 for size in sizes)):
    raise UserError(f'config.{key}={sizes} must be {requirement}, 1 or more each.')


def check_examples(
  config: config_dict.FrozenConfigDict,
  dataset: Dataset,
  batches: Sequence[str] = ('batch_size', 'init_examples'),
) -> None:
  """Checks the numbers of training images that a config asks for.

  Args:
    config: of the run.
    dataset: its data set.
    batches: keys of the sizes of batches that are drawn from the training images.

  Raises:
    UserError: the data set has fewer; or steps cannot be counted in 32 bits.
  """
  available = len(dataset.train)
  if config.train_examples > available:
    raise UserError(
      f'config.train_examples={config.train_examples}: {dataset.name} has {available} training '
      'images.'
    )
  used = config.train_examples or available
  for key in batches:
    if config[key] > used:
      raise UserError(f'config.{key}={config[key]} is more than the {used} training images.')
  if config.epochs * (used // config.batch_size) >= 2**31:
    raise UserError(f'config.epochs={config.epochs} takes 2**31 steps or more; lower it.')
