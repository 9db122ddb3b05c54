"""Checks of config values that the experiments share."""

import math
from collections.abc import Callable, Sequence

from ml_collections import config_dict

from experiments.training.data import Dataset
from experiments.training.errors import UserError


def choose(config: config_dict.FrozenConfigDict, key: str, choices: Sequence[str]) -> None:
  """Checks that a value is one of `choices`.

  Raises:
    UserError: it is not.
  """
  if config[key] not in choices:
    raise UserError(f'config.{key}={config[key]}: choose one of {", ".join(choices)}.')


def check(
  config: config_dict.FrozenConfigDict,
  keys: Sequence[str],
  is_valid: Callable[[float], bool],
  requirement: str,
) -> None:
  """Checks that the values of `keys` are finite and valid.

  Raises:
    UserError: one is not; the message names its key and the requirement.
  """
  for key in keys:
    if not (math.isfinite(config[key]) and is_valid(config[key])):
      raise UserError(f'config.{key}={config[key]} {requirement}.')


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
    UserError: the data set has fewer.
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
