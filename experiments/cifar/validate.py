"""Checks a config before anything is written."""

from ml_collections import config_dict

from experiments.training.checks import check, check_examples, check_switches, choose
from experiments.training.data import LOADERS, Dataset
from experiments.training.errors import UserError
from experiments.training.precision import DTYPES

_VARIANTS = ('plain', 'wn', 'bn', 'mean_bn', 'wn_mean_bn')
_AT_LEAST_ONE = (
  'width', 'block_depth', 'epochs', 'batch_size', 'init_examples', 'eval_batch_size', 'upscale',
  'log_every', 'checkpoint_every', 'keep_checkpoints',
)  # fmt: skip
_POSITIVE = ('learning_rate', 'zca_eps', 'eps_root', 'init_std', 'init_scale', 'bn_eps')
_BELOW_ONE = ('dropout_rate', 'b1', 'b1_second_half', 'b2', 'bn_momentum', 'ema_decay')
_NOT_NEGATIVE = ('noise_std', 'train_examples')


def validate(config: config_dict.FrozenConfigDict, dataset: Dataset | None = None) -> None:
  """Checks the values by themselves and, with a data set, against its size.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  choose(config, 'variant', _VARIANTS)
  choose(config, 'dataset', tuple(LOADERS))
  choose(config, 'dtype', DTYPES)
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, _NOT_NEGATIVE, lambda value: value >= 0, 'must not be negative')
  check(config, ('seed',), lambda value: 0 <= value < 2**32, 'must be at least 0 and below 2**32')
  check_switches(config, ('whiten', 'cpu_winograd', 'diagnostics'))
  if config.variant == 'bn' and config.batch_size == 1:
    raise UserError('config.batch_size=1: batch normalisation needs 2 or more.')
  if dataset is None:
    return

  check_examples(config, dataset)
  side = min(dataset.train.images.shape[1:3]) * config.upscale
  if side < 12:
    raise UserError(
      f'config.upscale={config.upscale}: images of {dataset.name} are then {side} pixels wide; the '
      'network needs 12 or more.'
    )
