"""LSTM and GRU cells whose weight matrices are all weight-normalized.

A cell normalizes its weights on every call, and so at every step of an `nnx.RNN`. In your own loop,
fold the cell first to compute w once; `wn.fold` is differentiable, so v and g still train::

  plain_cell = wn.fold(cell)
  carry, ys = jax.lax.scan(lambda carry, x: plain_cell(carry, x), carry, xs)
"""

from typing import Unpack

from flax import nnx

from wn import options
from wn.convert import normalize_layer


class LSTMCell(nnx.LSTMCell):
  """`nnx.LSTMCell` whose eight layers are `wn.Linear`: `ii if_ ig io` (input), `hi hf hg ho`.

  Example::

    rnn = nnx.RNN(wn.LSTMCell(32, 64, rngs=nnx.Rngs(0)))

  Args:
    in_features: size of an input.
    hidden_features: size of the carry and the output.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.LSTMCell`.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """

  def __init__(
    self,
    in_features: int,
    hidden_features: int,
    *,
    log_scale: bool | float = False,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Cell],
  ):
    super().__init__(in_features, hidden_features, rngs=rngs, **kwargs)
    for name in ('ii', 'if_', 'ig', 'io', 'hi', 'hf', 'hg', 'ho'):
      normalize_layer(getattr(self, name), log_scale=log_scale)


class GRUCell(nnx.GRUCell):
  """`nnx.GRUCell` whose layers `dense_i` and `dense_h` are `wn.Linear`.

  Each computes all three gates; every unit of every gate has its own g.

  Example::

    rnn = nnx.RNN(wn.GRUCell(32, 64, rngs=nnx.Rngs(0)))

  Args:
    in_features: size of an input.
    hidden_features: size of the carry and the output.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    rngs: random streams; uses `params`.
    **kwargs: as for `nnx.GRUCell`.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """

  def __init__(
    self,
    in_features: int,
    hidden_features: int,
    *,
    log_scale: bool | float = False,
    rngs: nnx.Rngs,
    **kwargs: Unpack[options.Cell],
  ):
    super().__init__(in_features, hidden_features, rngs=rngs, **kwargs)
    for name in ('dense_i', 'dense_h'):
      normalize_layer(getattr(self, name), log_scale=log_scale)
