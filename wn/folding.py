"""Folding g and v into plain weights, and the reverse."""

from typing import TypeVar

from flax import nnx

from wn import convert, recurrent
from wn.layers import WeightNormed, log_factor

M = TypeVar('M', bound=nnx.Module)

_PLAIN_CELL = {recurrent.LSTMCell: nnx.LSTMCell, recurrent.GRUCell: nnx.GRUCell}
_NORMALIZED_CELL = {plain: normalized for normalized, plain in _PLAIN_CELL.items()}


def fold(model: M) -> M:
  """A copy of the model with plain `nnx` layers and equal outputs; w is computed once.

  Differentiable: inside a traced function the copy's kernels are functions of the model's v and g.
  Use it to export a trained model, and to take the normalisation out of a loop over time steps.
  The kernels have the dtype in which the layer computes w, float32 unless its `dtype` is None.

  Args:
    model: any `nnx.Module`, a single layer or cell included. It is not changed.

  Returns:
    The copy. Its layers have no `scale`; shared layers stay shared.

  Raises:
    TypeError: the model holds an instance of a subclass of a `wn` layer, whose forward pass a plain
      layer may not compute.
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
        f'cannot fold {name}: {type(module).__qualname__} is a subclass of a wn layer; '
        'fold knows only the layers of wn themselves.'
      )
  return model


def unfold(model: M, *, log_scale: bool | float = False) -> M:
  """A copy of the model with weight-normalised layers and equal outputs: v = w, g = ‖w‖.

  Every `nnx.Linear`, `nnx.Conv`, `nnx.ConvTranspose`, `nnx.LSTMCell` and `nnx.GRUCell` becomes its
  namesake in `wn`. Subclasses of them, and other modules, stay as they are. Outputs are equal up to
  the rounding of g to the dtype of the parameters.

  Args:
    model: any `nnx.Module`, a single layer or cell included. It is not changed.
    log_scale: c: `scale` holds s and g = exp(c s). True is 1; False or 0: `scale` holds g.

  Returns:
    The copy; shared layers stay shared.

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
