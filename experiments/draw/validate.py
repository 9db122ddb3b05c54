"""Checks a config before anything is written."""

from ml_collections import config_dict

from experiments.training.checks import check, check_examples, check_switches, choose
from experiments.training.data import Dataset
from experiments.training.errors import UserError
from experiments.training.precision import DTYPES

_AT_LEAST_ONE = (
  'glimpses', 'encoder_units', 'decoder_units', 'latents', 'epochs', 'batch_size',
  'eval_batch_size', 'log_every', 'checkpoint_every', 'keep_checkpoints',
)  # fmt: skip
_WINDOWS = ('read_window', 'write_window')
_POSITIVE = ('learning_rate', 'eps', 'clip_norm', 'init_std')
_BELOW_ONE = ('b1', 'b2')


def validate(config: config_dict.FrozenConfigDict, dataset: Dataset | None = None) -> None:
  """Checks the values by themselves and, with a data set, against its size.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  choose(config, 'dataset', ('mnist', 'digits'))  # images that can be taken for bits
  choose(config, 'param', ('plain', 'wn'))
  choose(config, 'dtype', DTYPES)
  check_switches(config, ('attention', 'remat', 'diagnostics'))
  if config.variant != (config.param if config.attention else f'{config.param}-noattention'):
    raise UserError(
      f'config.variant={config.variant} is not the parameterisation and attention of the config; '
      'choose these in --config FILE:SPEC.'
    )
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, ('train_examples',), lambda value: value >= 0, 'must not be negative')
  check(config, ('seed',), lambda value: 0 <= value < 2**32, 'must be at least 0 and below 2**32')
  # With one filter there is no distance between filters, and Eq. 24 divides by 0.
  check(config, _WINDOWS, lambda size: size >= 2, 'must be 2 or more')
  if dataset is None:
    return
  check_examples(config, dataset, ('batch_size',))
  height, width = dataset.train.images.shape[1:3]
  if config.attention:
    requirement = f'is larger than the {height}×{width} images of {dataset.name}'
    check(config, _WINDOWS, lambda size: size <= min(height, width), requirement)
