"""Weight normalisation (Salimans & Kingma 2016, arXiv 1602.07868) for Flax NNX."""

from wn.data_dependent_init import data_dependent_init as data_dependent_init
from wn.fold import fold as fold
from wn.fold import unfold as unfold
from wn.layers import Conv as Conv
from wn.layers import ConvTranspose as ConvTranspose
from wn.layers import Linear as Linear
from wn.mean_only_batch_norm import MeanOnlyBatchNorm as MeanOnlyBatchNorm
from wn.recurrent import GRUCell as GRUCell
from wn.recurrent import LSTMCell as LSTMCell
from wn.weight_norm import weight_norm as weight_norm

__version__ = '0.1.0'
