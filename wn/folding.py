"""Folds v and g into plain weights, and unfolds them."""

from typing import TypeVar

from flax import nnx

from wn import convert, recurrent
from wn.layers import WeightNormed, log_factor

M = TypeVar('M', bound=nnx.Module)

_PLAIN_CELL = {recurrent.LSTMCell: nnx.LSTMCell, recurrent.GRUCell: nnx.GRUCell}
_NORMALIZED_CELL = {plain: normalized for normalized, plain in _PLAIN_CELL.items()}


def fold(model: M) -> M:
  """Returns a copy of the model with plain `nnx` layers and equal outputs.

  Use it to export a trained model, or to compute w once outside a loop over time steps. It is
  differentiable: inside a traced function the kernels are functions of the model's v and g. Kernels
  are float32, or keep their dtype if the layer's `dtype` is None. Shared layers stay shared.

  Args:
    model: any `nnx.Module`, including a single layer or cell. It is not changed.

  Raises:
    TypeError: the model contains an instance of a subclass of a `wn` layer, whose forward pass may
      differ from the plain layer's.
  """
  model = nnx.clone(model)
  for path, module in list(nnx.iter_modules(model)):
    if type(module) in convert.PLAIN:
      convert.plain_layer(module)
    elif type(module) in _PLAIN_CELL:
      convert.set_class(module, _PLAIN_CELL[type(module)])
    elif isinstance(module, (WeightNormed, *_PLAIN_CELL)):
      name = '.'.join(map(str, path)) or 'the model'
      raise TypeError(
        f'cannot fold {name}: {type(module).__qualname__} is a subclass of a wn layer, and its '
        'forward pass may differ.'
      )
  return model


def unfold(model: M, *, log_scale: bool | float = False) -> M:
  """Returns a copy of the model with weight-normalised layers and equal outputs: v = w, g = ‖w‖.

  Converts every `nnx.Linear`, `nnx.Conv`, `nnx.ConvTranspose`, `nnx.LSTMCell` and `nnx.GRUCell`,
  but not instances of their subclasses. Outputs are equal up to the rounding of g to the dtype of
  the parameters. Shared layers stay shared.

  Args:
    model: any `nnx.Module`, including a single layer or cell. It is not changed.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.

  Raises:
    ValueError: `log_scale` is negative or not finite.
  """
  log_scale = log_factor(log_scale)
  model = nnx.clone(model)
  for _, module in list(nnx.iter_modules(model)):
    if type(module) in convert.NORMALIZED:
      convert.normalize_layer(module, log_scale=log_scale)
    elif type(module) in _NORMALIZED_CELL:
      convert.set_class(module, _NORMALIZED_CELL[type(module)])
  return model
