"""Checks a config before anything is written."""

from ml_collections import config_dict

from configs.variants import CIFAR_PARAMETERIZATIONS
from experiments.runtime.errors import UserError
from experiments.training.checks import (
  check,
  check_examples,
  check_image_run,
  check_switches,
  choose,
)
from experiments.training.data import LOADERS, Dataset
from experiments.training.layers import DTYPES

_AT_LEAST_ONE = ('model.width', 'model.block_depth', 'init.examples', 'data.upscale')
_POSITIVE = (
  'optimizer.learning_rate',
  'optimizer.eps_root',
  'data.zca_eps',
  'init.scale',
  'model.init_std',
  'model.bn_eps',
)
_BELOW_ONE = (
  'model.dropout_rate',
  'model.bn_momentum',
  'optimizer.b1',
  'optimizer.b1_second_half',
  'optimizer.b2',
)
_NOT_NEGATIVE = ('model.noise_std', 'ema_epochs')


def validate(config: config_dict.FrozenConfigDict, dataset: Dataset | None = None) -> None:
  """Checks the values, and with a data set also against its size.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  check_image_run(config)
  choose(config, 'variant.parameterization', CIFAR_PARAMETERIZATIONS)
  choose(config, 'data.name', tuple(LOADERS))
  choose(config, 'model.dtype', DTYPES)
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, _NOT_NEGATIVE, lambda value: value >= 0, 'must not be negative')
  check_switches(config, ('data.whiten', 'run.cpu_winograd'))
  if config.variant.parameterization == 'bn' and config.batch_size == 1:
    raise UserError('config.batch_size=1: batch normalization needs 2 or more.')
  if dataset is None:
    return

  check_examples(config, dataset)
  side = min(dataset.train.images.shape[1:3]) * config.data.upscale
  if side < 12:
    raise UserError(
      f'config.data.upscale={config.data.upscale}: images of {dataset.name} are then {side} pixels '
      'wide; the network needs at least 12.'
    )
