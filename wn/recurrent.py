"""LSTM and GRU cells whose weight matrices are all weight-normalised.

A cell normalises its weights on every call, and so at every step of an `nnx.RNN`. In your own loop,
fold the cell first to compute w once; `wn.fold` is differentiable, so v and g still train::

  plain_cell = wn.fold(cell)
  carry, ys = jax.lax.scan(lambda carry, x: plain_cell(carry, x), carry, xs)
"""

from flax import nnx

from wn.convert import normalize_layer


class LSTMCell(nnx.LSTMCell):
  """`nnx.LSTMCell` whose eight layers are `wn.Linear`: `ii if_ ig io` (input), `hi hf hg ho`.

  Args:
    *args: in_features and hidden_features, as for `nnx.LSTMCell`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    **kwargs: as for `nnx.LSTMCell`.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """

  def __init__(self, *args, log_scale: bool | float = False, **kwargs):
    super().__init__(*args, **kwargs)
    for name in ('ii', 'if_', 'ig', 'io', 'hi', 'hf', 'hg', 'ho'):
      normalize_layer(getattr(self, name), log_scale=log_scale)


class GRUCell(nnx.GRUCell):
  """`nnx.GRUCell` whose layers `dense_i` and `dense_h` are `wn.Linear`.

  Each computes all three gates; every unit of every gate has its own g.

  Args:
    *args: in_features and hidden_features, as for `nnx.GRUCell`.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
    **kwargs: as for `nnx.GRUCell`.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """

  def __init__(self, *args, log_scale: bool | float = False, **kwargs):
    super().__init__(*args, **kwargs)
    for name in ('dense_i', 'dense_h'):
      normalize_layer(getattr(self, name), log_scale=log_scale)
