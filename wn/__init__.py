"""Weight normalisation (Salimans & Kingma 2016, arXiv 1602.07868) for Flax NNX."""

from wn.folding import fold, unfold
from wn.initialization import data_dependent_init
from wn.layers import Conv, ConvTranspose, KernelView, Linear, WeightNormed, unit_axis
from wn.mean_only_batch_norm import MeanOnlyBatchNorm
from wn.normalization import unit_norm, weight_norm
from wn.recurrent import GRUCell, LSTMCell

__all__ = [
  'Conv',
  'ConvTranspose',
  'GRUCell',
  'KernelView',
  'LSTMCell',
  'Linear',
  'MeanOnlyBatchNorm',
  'WeightNormed',
  'data_dependent_init',
  'fold',
  'unfold',
  'unit_axis',
  'unit_norm',
  'weight_norm',
]
__version__ = '0.1.0'
