"""Weights of PyTorch models, with and without weight normalization, for `nnx` and `wn` models.

PyTorch itself is not needed: a state dict may hold NumPy arrays or tensors. What has a counterpart:

* weight normalization as `torch.nn.utils.weight_norm` (`weight_g`, `weight_v`) and as
  `torch.nn.utils.parametrizations.weight_norm` (`parametrizations.weight.original0`, `…1`) have it,
  with any `dim`;
* Linear, Conv, ConvTranspose without groups, Embedding, BatchNorm, LayerNorm, GroupNorm,
  InstanceNorm and RMSNorm; a Linear may also be an `nnx.LinearGeneral`, as in attention;
* LSTM and GRU with one layer and direction, as an `nnx.RNN` (keys with `_l0`) or as a cell;
* any other parameter of the model, under its own name and in its own shape.

A module or parameter that the model holds under two names has both, as in PyTorch.

A model that computes the same needs more than the weights, as defaults differ: `nnx` has the
features last; its LayerNorm and GroupNorm have `epsilon=1e-6` (PyTorch: 1e-5), its BatchNorm a
`momentum` that is 1 − PyTorch's, its LSTM and GRU one bias instead of two. PyTorch's ConvTranspose
with `padding=p`, `dilation=d` and a window of k is one of `nnx` with the padding
`[(d * (k - 1) - p, d * (k - 1) - p + output_padding)]`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from flax import nnx

from wn import base, torch_modules
from wn.torch_layouts import Entry, Source, Write, join

Rename = Mapping[str, str | None] | Callable[[str], str | None] | None


def load_state_dict(
  model: nnx.Module, state_dict: Mapping[str, Any], *, rename: Rename = None
) -> None:
  """Writes the weights of a PyTorch model to an `nnx` or `wn` model, in place.

  A `wn` layer whose `unit_axis` is PyTorch's `dim` gets PyTorch's g and v as they are, and so
  trains alike. (PyTorch's default `dim=0` is the default of all layers but `wn.ConvTranspose`,
  where it is `unit_axis=-2`, or −1 with `transpose_kernel=True`; `dim=2` of a Conv1d is 0,
  `dim=None` is None.) Other `wn` layers get v = w and g = ‖w‖, plain layers w: the function is the
  same. Of the two biases of an LSTM the sum is kept; PyTorch trains both, which with SGD is twice
  the learning rate. A GRU whose second bias is not 0 where it counts alone needs a cell with one::

    cell.dense_h = wn.Linear(hidden_features, 3 * hidden_features, rngs=rngs)  # or nnx.Linear

  Example::

    wn.torch.load_state_dict(model, torch.load('generator.pt')['generator'])
    wn.torch.load_state_dict(model, state_dict, rename={'net': 'net.layers', 'head': None})

  Args:
    model: any model; its modules have the names that they have in PyTorch, or those of `rename`.
    state_dict: NumPy arrays or tensors by key. All that the model has a place for must be there,
      and nothing else but `num_batches_tracked`.
    rename: the path in the model of a PyTorch module and all in it, by its name ('ups.0'), or None
      to leave them out, as the second name of a shared weight; or a function from the name of each
      PyTorch module that has parameters. The longest name counts. By default the names are the
      same.

  Raises:
    ValueError: keys are missing or unexpected, shapes are wrong, values are not finite, weights
      are not 0 where a mask is, or the scale of a unit that is not fully masked is not positive in
      a layer with `log_scale`. The message has a line for each; nothing is written.
    TypeError: the model has a module that is not known here: `wn.WeightNorm`, `nnx.WeightNorm`,
      `nnx.SpectralNorm`, or a stack of layers made by `nnx.vmap`; or its parameters are not arrays.
  """
  base.check_values('wn.torch.load_state_dict', model)
  slots = torch_modules.slots(model)
  problems: list[str] = []
  sources = _sources(model, _arrays(state_dict, problems), rename, problems)
  writes: list[Write] = []
  for slot in slots:
    source = sources.setdefault(slot.path, Source(_torch_name(slot.path, rename), {}, []))
    source.problems = problems
    writes += slot.load(source)
  problems += _unexpected(model, sources) + _contradictions(writes)
  if problems:
    raise ValueError(
      f'the state dict does not fit the model, and nothing was written ({len(problems)} problems; '
      'shapes beside paths in the model are in its own layout):\n  '
      + '\n  '.join(problems)
      + "\nIf only names differ, pass rename={'name in PyTorch': 'path in the model'}; None as the "
      'path leaves a module out.'
    )
  for write in writes:
    write.apply()


def state_dict(
  model: nnx.Module,
  *,
  style: Literal['weight_norm', 'parametrizations'] = 'weight_norm',
  rename: Rename = None,
) -> dict[str, np.ndarray]:
  """The weights of an `nnx` or `wn` model for `load_state_dict` of a PyTorch module.

  Keys and shapes are those of the corresponding PyTorch module, so that `strict=True` succeeds. A
  `wn` layer gives g and v, with g of the shape that PyTorch has for `dim` = the layer's
  `unit_axis`: `wn.ConvTranspose` is `weight_norm(…, dim=1)` unless it has PyTorch's `unit_axis`.
  Where no `dim` is the layer's unit axis (several axes, masks of whole units aside), v is w and g
  is ‖w‖ for `dim=0`. Plain layers give `weight`. An `nnx.RNN` gives the keys of `LSTM` or `GRU`, a
  cell alone those of `LSTMCell` or `GRUCell`; a bias that a cell does not have is zeros. A unit
  with v = 0, for which PyTorch would divide by 0, gets g = 0 and v = 1.

  Example::

    arrays = wn.torch.state_dict(model)
    torch_model.load_state_dict({key: torch.from_numpy(a) for key, a in arrays.items()})

  Args:
    model: any model.
    style: the keys of g and v: `weight_g`, `weight_v` of `torch.nn.utils.weight_norm`, or
      `parametrizations.weight.original0`, `…1` of `torch.nn.utils.parametrizations.weight_norm`.
    rename: as in `load_state_dict`, read backwards if it is a dict; a function maps paths in the
      model to names in PyTorch.

  Returns:
    Arrays by key; those in bfloat16 and other types that NumPy lacks are float32.

  Raises:
    ValueError: `style` is not one of the two, or two modules get the same key.
    TypeError: as for `load_state_dict`.
  """
  if style not in ('weight_norm', 'parametrizations'):
    raise ValueError(f"style must be 'weight_norm' or 'parametrizations'; got {style!r}.")
  base.check_values('wn.torch.state_dict', model)
  result: dict[str, np.ndarray] = {}
  for slot in torch_modules.slots(model):
    module = rename(slot.path) if callable(rename) else _torch_name(slot.path, rename)
    if module is None:
      continue
    for leaf, array in slot.emit(style).items():
      key = join(module, leaf)
      if key in result:
        raise ValueError(f'two modules get the key {key}; the second is {slot.path}.')
      result[key] = np.array(array, order='C')  # a copy, which can be written to
  return result


def _arrays(state_dict: Mapping[str, Any], problems: list[str]) -> dict[str, np.ndarray]:
  """The values as NumPy arrays of finite numbers."""
  arrays = {}
  for key, value in state_dict.items():
    array = _array(value)
    if array.dtype.kind not in 'biufcV' or array.dtype.names:
      problems.append(f'{key}: a {type(value).__name__}; pass the state dict that holds arrays')
      continue
    array = array.astype(np.float32) if array.dtype.kind == 'V' else array  # bfloat16
    arrays[key] = array
  return arrays


def _array(value: Any) -> np.ndarray:
  if hasattr(value, 'detach'):
    value = value.detach().cpu()
    name = str(value.dtype)
    is_small = 'float' in name and not name.endswith(('32', '64'))  # NumPy lacks bfloat16
    value = (value.float() if is_small else value).numpy()
  return np.asarray(value)


def _sources(
  model: nnx.Module, arrays: Mapping[str, np.ndarray], rename: Rename, problems: list[str]
) -> dict[str, Source]:
  """The arrays by the path of the module in the model that they are for."""
  modules = dict(torch_modules.nodes(model))
  cells = {join(path, 'cell'): path for path, m in modules.items() if isinstance(m, nnx.RNN)}
  sources: dict[str, Source] = {}
  unused = set() if rename is None or callable(rename) else {*rename}
  for key, array in arrays.items():
    module, leaf = _split(key)
    if not callable(rename) and (prefix := _longest(rename or {}, module)) is not None:
      unused.discard(prefix)
    path = _path(module, rename)
    if path is None:
      continue
    path = cells.get(path, path)
    leaf = torch_modules.own_leaf(modules.get(path), leaf)
    source = sources.setdefault(path, Source(module, {}, []))
    if leaf in source.leaves:
      problems.append(f'{key}: also for {path}, like {source.leaves[leaf].key}')
    elif bad := np.count_nonzero(~np.isfinite(array)):
      problems.append(f'{key}: {bad} of {array.size} values, for {path}, are not finite')
    source.leaves[leaf] = Entry(key, array)
  problems += [f'rename: the state dict has no module {prefix!r}' for prefix in sorted(unused)]
  return sources


def _split(key: str) -> tuple[str, str]:
  """('ups.0', 'weight_g') of 'ups.0.weight_g'; 'parametrizations.…' is part of the second."""
  parts = key.split('.')
  n = 3 if len(parts) > 2 and parts[-3] == 'parametrizations' else 1
  return '.'.join(parts[:-n]), '.'.join(parts[-n:])


def _longest(prefixes: Mapping[str, Any], name: str) -> str | None:
  """The longest of some names that is a name or a module around it; '' is around all."""
  fitting = [p for p in prefixes if p in ('', name) or name.startswith(f'{p}.')]
  return max(fitting, key=len, default=None)


def _moved(names: Mapping[str, str | None], name: str) -> str | None:
  prefix = _longest(names, name)
  if prefix is None:
    return name
  new = names[prefix]
  return None if new is None else join(new, name[len(prefix) :].removeprefix('.'))


def _path(module: str, rename: Rename) -> str | None:
  """The path in the model of a PyTorch module."""
  if callable(rename):
    return rename(module)
  return _moved(rename or {}, module)


def _torch_name(path: str, rename: Rename) -> str:
  """The PyTorch module for a path in the model, by a dict read backwards."""
  if rename is None or callable(rename):
    return path
  backwards = {to: name for name, to in reversed([*rename.items()]) if to is not None}
  name = _moved(backwards, path)
  assert name is not None  # `backwards` leaves nothing out
  return name


def _unexpected(model: nnx.Module, sources: Mapping[str, Source]) -> list[str]:
  """A line for every array that no slot has read."""
  modules = dict(torch_modules.nodes(model))
  problems = []
  for path, source in sources.items():
    module = modules.get(path)
    place = f'at {path!r}' if path else 'at its top'
    reason = f'the model has no module {place}'
    if module is not None:
      reason = f'{type(module).__name__} {place} of the model has no place for it'
    if isinstance(module, nnx.RNN | nnx.RNNCellBase):
      reason += ' (a cell is one layer in one direction)'
    for entry in source.leaves.values():
      problems.append(f'{entry.key}: unexpected, shape {entry.array.shape}; {reason}')
  return problems


def _contradictions(writes: list[Write]) -> list[str]:
  """A line for every variable that is shared and would get two values."""
  values: dict[int, np.ndarray] = {}
  problems = []
  for write in writes:
    value = values.setdefault(id(write.variable), write.value)
    if value is not write.value and not np.array_equal(value, write.value):
      problems.append(
        f'a parameter {value.shape} that modules of the model share would get two values'
      )
  return problems
