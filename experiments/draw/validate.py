"""Checks a config before anything is written."""

from ml_collections import config_dict

from configs.variants import DRAW_OPTIONS, PARAMETERIZATIONS
from experiments.training.checks import (
  check,
  check_examples,
  check_image_run,
  check_switches,
  choose,
)
from experiments.training.data import Dataset
from experiments.training.layers import DTYPES

_AT_LEAST_ONE = ('model.glimpses', 'model.encoder_units', 'model.decoder_units', 'model.latents')
_WINDOWS = ('model.read_window', 'model.write_window')
_POSITIVE = ('optimizer.learning_rate', 'optimizer.eps', 'optimizer.clip_norm', 'model.init_std')
_BELOW_ONE = ('optimizer.b1', 'optimizer.b2')


def validate(config: config_dict.FrozenConfigDict, dataset: Dataset | None = None) -> None:
  """Checks the values, and with a data set also against its size.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  check_image_run(config)
  choose(config, 'data.name', ('mnist', 'digits'))  # whose pixels can be binarized
  choose(config, 'variant.parameterization', PARAMETERIZATIONS)
  choose(config, 'variant.option', ('', *DRAW_OPTIONS))
  choose(config, 'model.dtype', DTYPES)
  check_switches(config, ('model.peepholes', 'model.remat'))
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, ('model.initial_g',), lambda value: value >= 0, 'must be 0 (for ‖v‖) or more')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  # Eq. 24 divides by N − 1.
  check(config, _WINDOWS, lambda size: size >= 2, 'must be 2 or more')
  if dataset is None:
    return
  check_examples(config, dataset, ('batch_size',))
  height, width = dataset.train.images.shape[1:3]
  if config.variant.option != 'noattention':
    requirement = f'is larger than the {height}×{width} images of {dataset.name}'
    check(config, _WINDOWS, lambda size: size <= min(height, width), requirement)
