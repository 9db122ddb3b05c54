"""Weight normalization for Flax Linen: the layers, and functions on the variables of models.

A model is converted by writing `wn.linen` for `nn`; the paths of its parameters stay. See
docs/guide/linen.md.
"""

from wn.linen.folding import fold, unfold
from wn.linen.initialization import data_dependent_init
from wn.linen.layers import Conv, ConvTranspose, Dense, DenseGeneral, Embed, WeightNormed

__all__ = [
  'Conv',
  'ConvTranspose',
  'Dense',
  'DenseGeneral',
  'Embed',
  'WeightNormed',
  'data_dependent_init',
  'fold',
  'unfold',
]
