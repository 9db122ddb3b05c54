"""Weight normalisation (Salimans & Kingma 2016, arXiv 1602.07868) for Flax NNX."""

from wn.folding import fold as fold
from wn.folding import unfold as unfold
from wn.initialization import data_dependent_init as data_dependent_init
from wn.layers import Conv as Conv
from wn.layers import ConvTranspose as ConvTranspose
from wn.layers import Linear as Linear
from wn.mean_only_batch_norm import MeanOnlyBatchNorm as MeanOnlyBatchNorm
from wn.normalization import weight_norm as weight_norm
from wn.recurrent import GRUCell as GRUCell
from wn.recurrent import LSTMCell as LSTMCell

__version__ = '0.1.0'
