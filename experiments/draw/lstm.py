"""The LSTM with peepholes of the public implementation of DRAW."""

import jax
from flax import nnx


class PeepholeLSTMCell(nnx.LSTMCell):
  """`nnx.LSTMCell` with peepholes (Gers & Schmidhuber 2000; Graves 2013, Eq. 7–11).

    i = σ(… + p_i c),  f = σ(… + p_f c),  c' = f c + i g,  o = σ(… + p_o c'),  h' = o tanh(c')

  p_i, p_f and p_o are [units]: no weight vectors to normalize, so `wn.unfold` leaves them alone.

  Args:
    *args: in_features and hidden_features, as for `nnx.LSTMCell`.
    kernel_init: also initializes the peepholes.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.LSTMCell`.
  """

  def __init__(self, *args, kernel_init: nnx.initializers.Initializer, rngs: nnx.Rngs, **kwargs):
    super().__init__(*args, kernel_init=kernel_init, rngs=rngs, **kwargs)

    def peephole() -> nnx.Param:
      return nnx.Param(kernel_init(rngs.params(), (self.hidden_features,), self.param_dtype))

    self.peephole_i, self.peephole_f, self.peephole_o = peephole(), peephole(), peephole()

  def __call__(
    self, carry: tuple[jax.Array, jax.Array], inputs: jax.Array
  ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """(c, h), each [B, units], and inputs [B, in_features] → ((c', h'), h')."""
    c, h = carry
    i = nnx.sigmoid(self.ii(inputs) + self.hi(h) + self.peephole_i[...][None] * c)
    f = nnx.sigmoid(self.if_(inputs) + self.hf(h) + self.peephole_f[...][None] * c)
    g = nnx.tanh(self.ig(inputs) + self.hg(h))
    c = f * c + i * g
    o = nnx.sigmoid(self.io(inputs) + self.ho(h) + self.peephole_o[...][None] * c)
    h = o * nnx.tanh(c)
    return (c, h), h
