"""Weight normalization (Salimans & Kingma 2016, arXiv 1602.07868) for Flax NNX."""

from wn import torch as torch
from wn.base import WeightNormed, replace, unit_axes, weight
from wn.convert import register
from wn.folding import fold, unfold
from wn.initialization import data_dependent_init
from wn.layers import (
  Conv,
  ConvTranspose,
  Einsum,
  Embed,
  Linear,
  LinearGeneral,
  MaskedLinear,
)
from wn.mean_only_batch_norm import MeanOnlyBatchNorm
from wn.normalization import unit_norm, weight_norm
from wn.overview import summary
from wn.recurrent import GRUCell, LSTMCell
from wn.wrapper import WeightNorm

__all__ = [
  'Conv',
  'ConvTranspose',
  'Einsum',
  'Embed',
  'GRUCell',
  'LSTMCell',
  'Linear',
  'LinearGeneral',
  'MaskedLinear',
  'MeanOnlyBatchNorm',
  'WeightNorm',
  'WeightNormed',
  'data_dependent_init',
  'fold',
  'register',
  'replace',
  'summary',
  'torch',
  'unfold',
  'unit_axes',
  'unit_norm',
  'weight',
  'weight_norm',
]
__version__ = '0.2.0'
