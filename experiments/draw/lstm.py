"""The LSTM of the public implementation of DRAW: its gates also see the cell (peepholes)."""

import jax
from flax import nnx


class PeepholeLSTMCell(nnx.LSTMCell):
  """`nnx.LSTMCell` with peepholes (Gers & Schmidhuber 2000; Graves 2013, Eq. 7–11).

    i = σ(… + p_i c),  f = σ(… + p_f c),  c' = f c + i g,  o = σ(… + p_o c'),  h' = o tanh(c')

  p_i, p_f and p_o are one number a unit each. There is no vector of weights to normalise in them,
  so that `wn.unfold` leaves them as they are.

  Args:
    *args: as `nnx.LSTMCell`: in_features, hidden_features.
    kernel_init: initialiser of the peepholes too.
    **kwargs: as `nnx.LSTMCell`.
  """

  def __init__(self, *args, kernel_init: nnx.initializers.Initializer, rngs: nnx.Rngs, **kwargs):
    super().__init__(*args, kernel_init=kernel_init, rngs=rngs, **kwargs)
    peephole = lambda: nnx.Param(
      kernel_init(rngs.params(), (self.hidden_features,), self.param_dtype)
    )
    self.peephole_i, self.peephole_f, self.peephole_o = peephole(), peephole(), peephole()

  def __call__(
    self, carry: tuple[jax.Array, jax.Array], inputs: jax.Array
  ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """(c, h) [B, units] each and inputs [B, in_features] → ((c', h'), h')."""
    c, h = carry
    peep = lambda weights, cell: weights[...][None] * cell
    i = nnx.sigmoid(self.ii(inputs) + self.hi(h) + peep(self.peephole_i, c))
    f = nnx.sigmoid(self.if_(inputs) + self.hf(h) + peep(self.peephole_f, c))
    g = nnx.tanh(self.ig(inputs) + self.hg(h))
    c = f * c + i * g
    o = nnx.sigmoid(self.io(inputs) + self.ho(h) + peep(self.peephole_o, c))
    h = o * nnx.tanh(c)
    return (c, h), h
