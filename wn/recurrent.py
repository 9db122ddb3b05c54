"""Weight-normalised LSTM and GRU cells: every weight matrix is normalised, each unit by its own g.

A cell normalises its weights on every call, and so at every step of an `nnx.RNN`. In a loop of your
own, fold the cell first: `wn.fold` is differentiable, so w is computed once and v, g still train::

  plain_cell = wn.fold(cell)
  carry, ys = jax.lax.scan(lambda carry, x: plain_cell(carry, x), carry, xs)
"""

from flax import nnx

from wn.convert import normalize_layer


class LSTMCell(nnx.LSTMCell):
  """`nnx.LSTMCell` whose eight matrices are `wn.Linear`: `ii if_ ig io` (input), `hi hf hg ho`.

  Args:
    *args: as `nnx.LSTMCell`: in_features, hidden_features.
    log_scale: c: every `scale` holds s and g = exp(c s). True is 1; False or 0: g itself.
    **kwargs: as `nnx.LSTMCell`.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """

  def __init__(self, *args, log_scale: bool | float = False, **kwargs):
    super().__init__(*args, **kwargs)
    for name in ('ii', 'if_', 'ig', 'io', 'hi', 'hf', 'hg', 'ho'):
      normalize_layer(getattr(self, name), log_scale=log_scale)


class GRUCell(nnx.GRUCell):
  """`nnx.GRUCell` whose matrices `dense_i` and `dense_h` are `wn.Linear`.

  Each holds the three gates side by side; as a unit is a column, every gate's unit has its own g.

  Args:
    *args: as `nnx.GRUCell`: in_features, hidden_features.
    log_scale: c: every `scale` holds s and g = exp(c s). True is 1; False or 0: g itself.
    **kwargs: as `nnx.GRUCell`.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """

  def __init__(self, *args, log_scale: bool | float = False, **kwargs):
    super().__init__(*args, **kwargs)
    for name in ('dense_i', 'dense_h'):
      normalize_layer(getattr(self, name), log_scale=log_scale)
