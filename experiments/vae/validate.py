"""Checks a config before anything is written."""

from ml_collections import config_dict

from configs.variants import PARAMETERIZATIONS, VAE_DATASETS, VAE_POSTERIORS
from experiments.runtime.errors import UserError
from experiments.training.checks import (
  check,
  check_examples,
  check_image_run,
  check_sizes,
  choose,
)
from experiments.training.data import Dataset
from experiments.training.layers import DTYPES
from experiments.vae.resnet_vae import LIKELIHOODS

_BINARIZE = ('anew', 'once')
_POSITIVE = (
  'layers.init_std',
  'init.scale',
  'init.flow_scale',
  'optimizer.learning_rate',
  'optimizer.eps',
)
_BELOW_ONE = ('optimizer.b1', 'optimizer.b2')
_NOT_NEGATIVE = ('layers.log_scale', 'free_bits', 'ema_epochs')


def validate(config: config_dict.FrozenConfigDict, dataset: Dataset | None = None) -> None:
  """Checks the config and, with a data set, that it fits the images.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  check_image_run(config)
  choose(config, 'variant.dataset', VAE_DATASETS)
  choose(config, 'variant.posterior', VAE_POSTERIORS)
  choose(config, 'variant.parameterization', PARAMETERIZATIONS)
  choose(config, 'layers.dtype', DTYPES)
  check(config, ('init.examples',), lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, _NOT_NEGATIVE, lambda value: value >= 0, 'must not be negative')
  is_cifar10 = config.variant.dataset == 'cifar10'
  if is_cifar10:
    _check_resnet_vae(config)
  else:
    _check_conv_vae(config)
  if dataset is None:
    return
  check_examples(config, dataset)
  height, width = dataset.train.images.shape[1:3]
  halvings = len(config.model.depths) if is_cifar10 else 2
  if height % 2**halvings or width % 2**halvings:
    raise UserError(
      f'config.variant.dataset={dataset.name}: its images are {height}×{width}; both must be '
      f'divisible by {2**halvings}, because the network halves them {halvings} times.'
    )


def _check_resnet_vae(config: config_dict.FrozenConfigDict) -> None:
  check_sizes(config, 'model.depths', 'numbers of layers')
  check(config, ('model.h', 'model.z'), lambda value: value >= 1, 'must be 1 or more')
  choose(config, 'model.edge_bins', tuple(LIKELIHOODS))


def _check_conv_vae(config: config_dict.FrozenConfigDict) -> None:
  choose(config, 'data.binarize', _BINARIZE)
  check_sizes(config, 'model.maps', 'three numbers', count=3)
  counts = ('blocks', 'hidden', 'latents', 'flow_steps', 'flow_depth')
  check(config, [f'model.{key}' for key in counts], lambda value: value >= 1, 'must be 1 or more')
  if config.variant.posterior == 'iaf':
    check(
      config,
      ('model.flow_width',),
      lambda width: width >= config.model.latents,
      f'must be config.model.latents={config.model.latents} or more, a unit per latent',
    )
