"""Checks a config before anything is written."""

from ml_collections import config_dict

from experiments.training.checks import (
  check,
  check_examples,
  check_sizes,
  check_switches,
  choose,
)
from experiments.training.data import LOADERS, Dataset
from experiments.training.errors import UserError
from experiments.training.precision import DTYPES

_AT_LEAST_ONE = (
  'epochs', 'batch_size', 'init_examples', 'eval_batch_size', 'log_every', 'checkpoint_every',
  'keep_checkpoints',
)  # fmt: skip
_POSITIVE = ('learning_rate', 'eps', 'init_std', 'init_scale')
_BELOW_ONE = ('b1', 'b2', 'ema_decay')


def validate(config: config_dict.FrozenConfigDict, dataset: Dataset | None = None) -> None:
  """Checks the values by themselves and, with a data set, against its size.

  Raises:
    UserError: a value is out of range; the message names the key.
  """
  choose(config, 'dataset', tuple(LOADERS))
  choose(config, 'posterior', ('diag', 'iaf'))
  choose(config, 'param', ('plain', 'wn'))
  choose(config, 'dtype', DTYPES)
  if config.variant != f'{config.dataset}-{config.posterior}-{config.param}':
    raise UserError(
      f'config.variant={config.variant} is not the data set, posterior and parameterisation of the '
      'config; choose these in --config FILE:SPEC.'
    )
  check(config, _AT_LEAST_ONE, lambda value: value >= 1, 'must be 1 or more')
  check(config, _POSITIVE, lambda value: value > 0, 'must be above 0')
  check(config, _BELOW_ONE, lambda value: 0 <= value < 1, 'must be at least 0 and below 1')
  check(config, ('train_examples',), lambda value: value >= 0, 'must not be negative')
  check(config, ('seed',), lambda value: 0 <= value < 2**32, 'must be at least 0 and below 2**32')
  check(config, ('free_bits',), lambda value: value >= 0, 'must not be negative')
  check_switches(config, ('log_scale', 'diagnostics'))
  if config.dataset == 'cifar10':
    check(config, ('h', 'z'), lambda value: value >= 1, 'must be 1 or more')
    check_sizes(config, 'depths', 'numbers of layers')
  else:
    check(
      config, ('blocks', 'hidden', 'latents', 'flow_depth'), lambda n: n >= 1, 'must be 1 or more'
    )
    check_sizes(config, 'maps', 'three numbers', count=3)
    if config.posterior == 'iaf':
      check(config, ('flow_steps',), lambda n: n >= 1, "must be 1 or more with 'iaf'")
      check(
        config,
        ('flow_width',),
        lambda width: width >= config.latents,
        f'must be config.latents={config.latents} or more, a unit for each latent',
      )
  if dataset is None:
    return
  check_examples(config, dataset)
  height, width = dataset.train.images.shape[1:3]
  halvings = len(config.depths) if config.dataset == 'cifar10' else 2
  if height % 2**halvings or width % 2**halvings:
    raise UserError(
      f'config.dataset={dataset.name}: its images are {height}×{width}; both must be divisible by '
      f'{2**halvings}, as the network halves them {halvings} times.'
    )
