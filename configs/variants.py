"""What runs are compared in: the one place that configs, checks, networks and reports read.

`config.variant` of every experiment holds the parts of a variant; `name` joins them.
"""

from collections.abc import Mapping

PARAMETERIZATIONS = ('plain', 'wn')  # of every experiment but CIFAR-10 classification

# §5.1. `plain_released` is the normal parameterisation as the authors' code has it, not the paper.
CIFAR_PARAMETERIZATIONS = ('plain', 'wn', 'bn', 'mean_bn', 'wn_mean_bn', 'plain_released')
CIFAR_PAPER = CIFAR_PARAMETERIZATIONS[:5]  # those of Figures 1 and 2

VAE_DATASETS = ('mnist', 'digits', 'cifar10')
VAE_POSTERIORS = ('diag', 'iaf')

DRAW_OPTIONS = ('noattention',)

DQN_GAMES = ('breakout', 'enduro', 'seaquest', 'space_invaders')  # Figure 6; there are more


# The parts of a variant, in the order in which the command line names them.
PARTS = ('game', 'dataset', 'posterior', 'parameterization', 'option')


def name(variant: Mapping[str, str]) -> str:
  """'mnist-iaf-wn' of the parts of a variant; empty ones are left out."""
  return '-'.join(variant[part] for part in PARTS if variant.get(part))
