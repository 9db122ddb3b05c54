"""The variants that are compared, for configs, checks, networks and reports.

`config.variant` holds the parts of a variant; `name` joins them.
"""

from collections.abc import Mapping

PARAMETERIZATIONS = ('plain', 'wn')  # of all experiments but CIFAR-10 classification

# §5.1. `plain_released` is the normal parameterization of the authors' code, not of the paper.
CIFAR_PARAMETERIZATIONS = ('plain', 'wn', 'bn', 'mean_bn', 'wn_mean_bn', 'plain_released')
CIFAR_PAPER = CIFAR_PARAMETERIZATIONS[:5]  # those of Figures 1 and 2

VAE_DATASETS = ('mnist', 'digits', 'cifar10')
VAE_POSTERIORS = ('diag', 'iaf')

DRAW_OPTIONS = ('noattention',)

DQN_GAMES = ('breakout', 'enduro', 'seaquest', 'space_invaders')  # Figure 6; other games work too

# The parts of a variant, in the order of the command line.
PARTS = ('game', 'dataset', 'posterior', 'parameterization', 'option')


def name(variant: Mapping[str, str]) -> str:
  """Joins the non-empty parts of a variant, to 'mnist-iaf-wn' for example."""
  return '-'.join(variant[part] for part in PARTS if variant.get(part))
