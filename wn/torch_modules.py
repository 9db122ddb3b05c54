"""Which PyTorch parameters the modules of a model stand for."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
from flax import nnx

from wn import axes, base, convert
from wn.axes import Layer
from wn.mean_only_batch_norm import MeanOnlyBatchNorm
from wn.torch_layouts import Source, Vector, Write, join, stack, to_numpy, write
from wn.torch_weights import Weight

CELLS = (nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell)
_NORMS = (
  nnx.BatchNorm,
  nnx.LayerNorm,
  nnx.GroupNorm,
  nnx.RMSNorm,
  nnx.InstanceNorm,
  MeanOnlyBatchNorm,
)
_NORM_NAMES = {'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_RECURRENT_LEAF = re.compile(r'^(parametrizations\.)?((weight|bias)_(ih|hh))(_l0)?(?=$|\.|_[gv]$)')


@dataclasses.dataclass(frozen=True)
class RecurrentBias:
  """The two biases of PyTorch's LSTM, GRU and RNN, of which cells of `nnx` have one.

  Where only their sum counts, it is in the one. In a GRU the new state's second bias counts alone:
  n = tanh(W x + b + r (U h + b')). It must be 0, or the cell's `dense_h` must have a bias.

  Attributes:
    path: the module's path in the model.
    suffix: of the names, '_l0' or ''.
    inputs: the layers of the input.
    states: the layers of the state.
    is_gru: whether the cell is a GRU.
  """

  path: str
  suffix: str
  inputs: tuple[Layer, ...]
  states: tuple[Layer, ...]
  is_gru: bool

  @property
  def variables(self) -> list[nnx.Variable]:
    """All variables of the model that it stands for."""
    return [
      layer.bias
      for layer in (*self.inputs, *self.states)
      if getattr(layer, 'bias', None) is not None
    ]

  @property
  def _names(self) -> tuple[str, str]:
    return f'bias_ih{self.suffix}', f'bias_hh{self.suffix}'

  def _sides(self) -> list[list[nnx.Variable] | None]:
    """The biases of the input and of the state; None where there are none."""
    sides = [[layer.bias for layer in layers] for layers in (self.inputs, self.states)]
    has_bias = [{bias is not None for bias in side} for side in sides]
    if {True, False} in has_bias or has_bias == [{False}, {False}]:
      raise TypeError(
        f'{self.path or "the model"}: PyTorch has one or two biases for every unit of a cell; some '
        'layers of this one have a bias where others have none.'
      )
    return [side if True in has else None for side, has in zip(sides, has_bias)]

  def load(self, source: Source) -> list[Write]:
    """What to write for the arrays in `source`."""
    sides = self._sides()
    own = next(side for side in sides if side is not None)
    size = sum(len(bias[...]) for bias in own)
    owner = f'the biases of {self.path or "the model"}, each'
    taken = [source.take(name, (size,), owner, own[0][...].shape) for name in self._names]
    values = [value for value in taken if value is not None]
    if len(values) < len(taken):
      return []
    missing = [i for i, side in enumerate(sides) if side is None]
    if missing:
      alone = values[missing[0]][size // 3 * 2 :]
      if self.is_gru and alone.any():
        key = join(source.module, self._names[missing[0]])
        library = 'wn' if isinstance(self.states[0], base.WeightNormed) else 'nnx'
        source.problems.append(
          f'{key}: the GRU of {self.path or "the model"} has no place for the second bias of the '
          f'new state, up to {np.abs(alone).max():.3g}; give it one: '
          f'cell.dense_h = {library}.Linear({size // 3}, {size}, rngs=rngs)'
        )
        return []
      total = np.sum(values, 0, dtype=np.float64).astype(np.float32)
      values = [total, total]
    return [
      write(bias, part)
      for side, value in zip(sides, values)
      if side is not None
      for bias, part in zip(side, np.split(value, len(side)))
    ]

  def emit(self, style: str) -> dict[str, np.ndarray]:
    """Both biases; zeros for the one that the cell does not have."""
    del style
    values = [
      None if side is None else stack([to_numpy(bias[...]) for bias in side])
      for side in self._sides()
    ]
    zeros = np.zeros_like(next(value for value in values if value is not None))
    return {name: zeros if v is None else v for name, v in zip(self._names, values)}


@dataclasses.dataclass(frozen=True)
class Counter:
  """`num_batches_tracked` of PyTorch's batch normalization, which `nnx` does not have."""

  path: str

  @property
  def variables(self) -> list[nnx.Variable]:
    """None."""
    return []

  def load(self, source: Source) -> list[Write]:
    """Nothing to write."""
    source.leaves.pop('num_batches_tracked', None)
    return []

  def emit(self, style: str) -> dict[str, np.ndarray]:
    """0."""
    del style
    return {'num_batches_tracked': np.zeros((), np.int64)}


Slot = Weight | Vector | RecurrentBias | Counter


def slots(model: nnx.Module) -> list[Slot]:
  """The PyTorch parameters that a model has a place for.

  Raises:
    TypeError: the model has a module, a layer or a parameter without a counterpart.
  """
  found_nodes = nodes(model)
  modules = [(path, module) for path, module in found_nodes if isinstance(module, nnx.Module)]
  for path, module in modules:
    _check(path, module)
  found: list[Slot] = []
  held: set[int] = set()  # what belongs to a module that is its own in PyTorch
  for path, module in modules:
    if isinstance(module, nnx.RNN) and isinstance(module.cell, CELLS):
      found += _cell_slots(path, join(path, 'cell'), module.cell, '_l0')
      held.add(id(module.cell))
  for path, module in modules:
    if isinstance(module, CELLS):
      found += () if id(module) in held else _cell_slots(path, path, module, '')
      held.update(id(layer) for _, layer in nnx.iter_modules(module))
  for path, module in modules:
    if isinstance(module, convert.LAYERS) and id(module) not in held:
      found += _layer_slots(path, module)
    elif isinstance(module, _NORMS):
      found += _norm_slots(path, module)
  held = {id(variable) for slot in found for variable in slot.variables}
  for path, variable in found_nodes:
    if isinstance(variable, nnx.Param | nnx.BatchStat) and id(variable) not in held:
      if not hasattr(value := variable.get_value(), 'shape'):
        kind = f'a {type(variable).__name__} of a {type(value).__name__}'
        raise TypeError(f'{path} is {kind}, and no array.')
      parent, _, name = path.rpartition('.')
      found.append(Vector(parent, name, path, variable, value.shape))
  return found


def nodes(model: nnx.Module) -> list[tuple[str, nnx.Module | nnx.Variable]]:
  """(path, module or variable) of a model; what it holds twice has two paths, as in PyTorch."""
  found = list(_walk(model, '', ()))
  seen = {id(node) for _, node in found}
  # What is in lists and dicts of Python, not of nnx.
  rest = [('.'.join(map(str, path)), node) for path, node in nnx.iter_graph(model)]
  return found + [
    (path, node)
    for path, node in rest
    if isinstance(node, nnx.Module | nnx.Variable) and id(node) not in seen
  ]


def _walk(
  node: nnx.Module | nnx.Variable, path: str, above: tuple[int, ...]
) -> Iterator[tuple[str, nnx.Module | nnx.Variable]]:
  yield path, node
  if isinstance(node, nnx.Module):
    for key, child in nnx.iter_children(node):
      if isinstance(child, nnx.Module | nnx.Variable) and id(child) not in (*above, id(node)):
        yield from _walk(child, join(path, str(key)), (*above, id(node)))


def _check(path: str, module: nnx.Module) -> None:
  if isinstance(module, convert.REWRITERS):
    kind = f'{type(module).__module__.split(".")[0]}.{type(module).__name__}'
    raise TypeError(f'{path or "the model"} is a {kind}, which wn.torch does not know.')
  if isinstance(module, convert.LAYERS):
    shape = base.kernel_of(module)[...].shape
    if len(shape) != axes.own_ndim(module):
      raise TypeError(f'{path or "the model"} is a stack of layers, with a kernel {shape}.')


def _layer_slots(path: str, layer: nnx.Module) -> Iterator[Slot]:
  yield Weight(path, 'weight', ((path, layer),))
  bias = getattr(layer, 'bias', None)
  if bias is not None:
    is_general = isinstance(layer, nnx.LinearGeneral) and not layer.batch_axis
    shape = (bias[...].size,) if is_general else bias[...].shape
    yield Vector(path, 'bias', join(path, 'bias'), bias, shape)


def _norm_slots(path: str, module: nnx.Module) -> Iterator[Slot]:
  for attribute, name in _NORM_NAMES.items():
    variable = getattr(module, attribute, None)
    if isinstance(variable, nnx.Variable):
      yield Vector(path, name, join(path, attribute), variable, variable[...].shape)
  if isinstance(module, nnx.BatchNorm):
    yield Counter(path)


def _cell_slots(path: str, cell_path: str, cell: nnx.Module, suffix: str) -> Iterator[Slot]:
  names = (('dense_i',), ('dense_h',))
  if isinstance(cell, nnx.LSTMCell):
    names = (('ii', 'if_', 'ig', 'io'), ('hi', 'hf', 'hg', 'ho'))  # PyTorch's order of the gates
  sides = [tuple((join(cell_path, name), getattr(cell, name)) for name in side) for side in names]
  yield Weight(path, f'weight_ih{suffix}', sides[0])
  yield Weight(path, f'weight_hh{suffix}', sides[1])
  layers = [tuple(layer for _, layer in side) for side in sides]
  bias = RecurrentBias(path, suffix, *layers, is_gru=isinstance(cell, nnx.GRUCell))
  if bias.variables:
    yield bias


def own_leaf(module: nnx.Module | nnx.Variable | None, leaf: str) -> str:
  """A leaf as the slots of a recurrent module name it: with '_l0' only in an `nnx.RNN`."""
  if isinstance(module, nnx.RNN | nnx.RNNCellBase):
    suffix = '_l0' if isinstance(module, nnx.RNN) else ''
    return _RECURRENT_LEAF.sub(lambda m: f'{m[1] or ""}{m[2]}{suffix}', leaf)
  return leaf
