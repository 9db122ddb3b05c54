"""Folds v and g into plain weights, and unfolds them."""

import collections
import warnings
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import jax
from flax import nnx

from wn import axes, base, convert, inspection, recurrent
from wn.axes import Layer
from wn.base import WeightNormed
from wn.normalization import UnitAxis, norm_axes
from wn.scales import log_factor
from wn.wrapper import WeightNorm

M = TypeVar('M', bound=nnx.Module)
Path = tuple[Any, ...]

_PLAIN_CELL = {recurrent.LSTMCell: nnx.LSTMCell, recurrent.GRUCell: nnx.GRUCell}
_NORMALIZED_CELL = {plain: normalized for normalized, plain in _PLAIN_CELL.items()}


def fold(model: M) -> M:
  """Returns a copy of the model with plain `nnx` layers and equal outputs.

  Use it to export a trained model, or to compute w once outside a loop over time steps. It is
  differentiable: inside a traced function the kernels are functions of the model's v and g. Kernels
  are float32, or keep their dtype if the layer's is the same or None. Shared layers stay shared. A
  `wn.Linear` with a mask becomes a `wn.MaskedLinear`, which keeps it in training. A warning names
  layers whose kernel the model reads or sets itself, as that becomes w.

  All state of the copy is its own: what a call of it writes, such as running means and the counts
  of dropout's random numbers, is not in the model. In a training step, fold the part without them.

  Example::

    plain = wn.fold(model)  # nnx.Linear, nnx.Conv, …
    y = plain(x)            # == model(x)

  Args:
    model: any `nnx.Module`, including a single layer or cell. It is not changed.

  Raises:
    TypeError: the model holds no modules, an instance of a subclass of a `wn` layer with its own
      forward pass that is not known from `wn.register`, or of a `wn` cell with methods of its own,
      its parameters are not arrays, or a kernel has hooks or a type that may change its value where
      it is read or set.
  """
  _check_model('fold', model)
  model = nnx.clone(model)
  used = inspection.layers_used(model)
  if any(isinstance(module, WeightNormed) for _, module in nnx.iter_modules(model)):
    inspection.warn_of_other_uses('wn.fold', model)
  folded: dict[tuple[Any, ...], nnx.Variable] = {}
  for path, module in list(nnx.iter_modules(model)):
    cls = type(module)
    if isinstance(module, WeightNorm):
      for name in module.names:
        _check_values('fold', path, module, module.variable(name))
    if isinstance(module, WeightNormed):
      _check_values('fold', path, module, base.kernel_of(module))
      _check_foldable(path, module)
      if id(module) in used:
        warnings.warn(
          f'wn.fold: {used[id(module)]} the kernel of {_name(path, module)}, which is v '
          'before folding and w after it. To read its weight use wn.weight(layer).',
          stacklevel=2,
        )
      convert.plain_layer(module, folded)
    elif isinstance(module, tuple(_PLAIN_CELL)):
      parent = next(c for c in cls.__mro__ if c in _PLAIN_CELL)
      if convert.added_methods(cls, parent):
        raise TypeError(
          f'cannot fold {_name(path, module)}: {cls.__qualname__} is a subclass of a wn cell, and '
          'its forward pass may differ.'
        )
      convert.set_class(module, _PLAIN_CELL[parent])
  return _unwrapped(model, {})


def _check_model(verb: str, model: Any) -> None:
  if not any(True for _ in nnx.iter_modules(model)):
    raise TypeError(
      f'wn.{verb} needs an nnx.Module, or a list or dict of them; got {type(model).__name__}. For '
      f'Linen use wn.linen.{verb}.'
    )


def _check_values(verb: str, path: Path, module: nnx.Module, variable: nnx.Variable) -> None:
  if base.is_abstract(variable):
    raise TypeError(
      f'cannot {verb} {_name(path, module)}: its parameters are shapes without values. '
      f'{verb.capitalize()} inside nnx.eval_shape instead: nnx.eval_shape(lambda: '
      f'wn.{verb}(create_model())).'
    )


def _check_foldable(path: Path, layer: nnx.Module) -> None:
  if reason := convert.pytree_conflict(type(layer)):
    raise TypeError(f'cannot fold {_name(path, layer)}: {reason}.')
  if convert.plain_class(type(layer)) is None:
    raise TypeError(
      f'cannot fold {_name(path, layer)}: {type(layer).__qualname__} is a subclass of a wn layer '
      'with its own forward pass. Name its plain counterpart: wn.register(plain, normalized).'
    )
  if base.is_computed(base.kernel_of(layer)):
    raise TypeError(
      f'cannot fold {_name(path, layer)}: its kernel has hooks or a type of its own, '
      'which may change its value.'
    )


def _unwrapped(node: Any, done: dict[int, tuple[Any, Any]]) -> Any:
  """A model with every `wn.WeightNorm` replaced, wherever it is, by what it holds.

  Args:
    node: the model, or a part of it.
    done: (part, what replaces it) by id(part); filled.
  """
  if isinstance(node, nnx.Variable):
    return node
  if id(node) not in done:
    done[id(node)] = node, node
    if isinstance(node, WeightNorm):
      done[id(node)] = node, _unwrapped(node.normalized_module(), done)
    elif isinstance(node, nnx.Pytree):
      for name, value in list(vars(node).items()):
        new = _unwrapped(value, done)
        if new is not value:
          setattr(node, name, new)
    else:
      done[id(node)] = node, base.map_children(lambda child: _unwrapped(child, done), node)
  return done[id(node)][1]


def unfold(
  model: M,
  *,
  filter: Any = ...,
  unit_axis: UnitAxis | Literal['output'] = 'output',
  log_scale: bool | float = False,
) -> M:
  """Returns a copy of the model with weight-normalized layers and equal outputs: v = w, g = ‖w‖.

  Converts every `nnx.Linear`, `Conv`, `ConvTranspose`, `LinearGeneral`, `Einsum` and `Embed`, and
  so attention, the layers in recurrent cells, instances of subclasses without a forward pass of
  their own, and those known from `wn.register`. Layers that it cannot convert without making the
  model another function in training are left alone, and a warning names them:

  * layers of other subclasses, and layers inside `nnx.WeightNorm` and `nnx.SpectralNorm`, which
    rewrite the kernel;
  * layers whose kernel the model reads or sets itself (`self.encoder.kernel`, as with tied
    weights), since in a weight-normalized layer `kernel` is v. With `wn.weight(self.encoder)`
    instead they are converted. Reads through local variables (`layer = self.layers[i];
    layer.kernel`) and by functions outside the model's classes are not found.
  * layers whose kernel variable the model has elsewhere, too, as another layer's or an attribute of
    its own, which would become v or get another g;
  * layers with an attribute of their own by a name that `wn` uses, such as `scale`, or `mask` where
    the layer does not apply it;
  * layers whose kernel has hooks or a type that may change its value where it is read or set, as
    `fold` could not store w in it;
  * layers that the constructors of `wn` refuse, as their mask has values other than 0 and 1 or
    their einsum does not name the axes of the kernel;
  * stacks of layers (`nnx.vmap`) along another axis of the kernel than the first, if its sizes show
    it; and normalized layers that have another `unit_axis` or `log_scale` than is asked for.

  A converted layer is still an instance of its old class: ask for `isinstance`, not for its `type`.
  `wn.summary(model)` shows what is normalized. Outputs are equal up to the rounding of g to the
  dtype of the parameters. Units with a zero kernel get a random direction and g = 0. Shared layers
  stay shared, and frozen ones frozen: g has the type of its kernel's variable.

  Example::

    model = wn.unfold(model)
    model = wn.unfold(model, filter=nnx.Conv)  # only convolutions
    model = wn.unfold(model, filter=nnx.Not(nnx.PathContains('head')))

  Args:
    model: any `nnx.Module`, including a single layer or cell. It is not changed.
    filter: which layers to convert: an `nnx` filter, such as a class, `nnx.PathContains(name)`,
      `nnx.Not(…)`, or a function (path, layer) → bool. By default all.
    unit_axis: as for the layers; by default the axes of the output features.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.

  Raises:
    ValueError: `log_scale` is negative or not finite, or `unit_axis` does not suit a layer that the
      filter chooses.
    TypeError: the model holds no modules, its parameters are not arrays, or `filter` is a string.
  """
  _check_model('unfold', model)
  log_scale = log_factor(log_scale)
  if isinstance(filter, str):
    raise TypeError(f'filter must be an nnx filter: nnx.PathContains({filter!r}), not {filter!r}.')
  wanted = nnx.filterlib.to_predicate(filter)
  model = nnx.clone(model)
  candidates = list(_candidates(model))
  chosen = [(path, layer, reason) for path, layer, reason in candidates if wanted(path, layer)]
  if candidates and not chosen:
    warnings.warn('wn.unfold: the filter chooses none of the layers', stacklevel=2)
  normalized = [item for item in nnx.iter_modules(model) if isinstance(item[1], WeightNormed)]
  if not candidates and not normalized:
    message = f'wn.unfold: {type(model).__name__} has no layers to convert'
    warnings.warn(message, stacklevel=2)
  left = [
    f'{_name(path, layer)} (is normalized already, with another unit_axis or log_scale)'
    for path, layer in normalized
    if _differs(layer, unit_axis, log_scale) and wanted(path, layer)
  ]
  for path, layer, reason in chosen:
    if not reason:
      _check_values('unfold', path, layer, base.kernel_of(layer))
      reason = _obstacle(layer, unit_axis)
    if reason:
      left.append(f'{_name(path, layer)} ({reason})')
      continue
    try:
      convert.normalize_layer(layer, unit_axis=unit_axis, log_scale=log_scale)
    except ValueError as error:
      raise ValueError(f'{_name(path, layer)}: {error}') from error
  _normalize_cells(model)
  inspection.warn_of_other_uses('wn.unfold', model)
  if left:
    warnings.warn('wn.unfold: left as they are: ' + '; '.join(left), stacklevel=2)
  return model


def _candidates(model: nnx.Module) -> Iterator[tuple[Path, nnx.Module, str]]:
  """(path, layer, why it cannot be converted or '') of all plain layers."""
  used = inspection.layers_used(model)
  holders = _holders(model)
  for path, module, ancestors in convert.modules(model):
    if not isinstance(module, convert.LAYERS) or isinstance(module, WeightNormed):
      continue
    rewriter = next((m for m in ancestors if isinstance(m, convert.REWRITERS)), None)
    if rewriter is not None:
      yield path, module, f'inside {type(rewriter).__name__}'
    elif convert.normalized_class(type(module)) is None:
      yield (
        path,
        module,
        f'{type(module).__qualname__} may have its own forward pass: see wn.register',
      )
    elif name := convert.own_attribute(module):
      yield path, module, f'has an attribute `{name}` of its own'
    elif base.is_computed(base.kernel_of(module)):
      yield path, module, 'its kernel has hooks or a type of its own, which may change its value'
    elif id(module) in used:
      hint = ': use wn.weight(layer) there' if used[id(module)].endswith(' reads') else ''
      yield path, module, f'{used[id(module)]} its kernel{hint}'
    elif others := [p for p in holders[id(base.kernel_of(module))] if p != path]:
      yield path, module, f'shares its kernel with {", ".join(_name(p, module) for p in others)}'
    else:
      yield path, module, ''


def _differs(layer: Layer, unit_axis: UnitAxis | Literal['output'], log_scale: float) -> bool:
  """Whether a normalized layer has other values of arguments that are not the default."""
  if log_scale and layer.log_scale != log_scale:
    return True
  if unit_axis == 'output':
    return False
  ndim = axes.own_ndim(layer)
  return norm_axes(ndim, unit_axis) != norm_axes(ndim, layer.unit_axis)


def _obstacle(layer: nnx.Module, unit_axis: UnitAxis | Literal['output']) -> str:
  """Why a layer cannot be weight-normalized as it is, or ''."""
  try:
    base.check_mask(layer)
    axes.check_stack(layer, base.kernel_of(layer)[...].shape)
    if unit_axis == 'output':
      axes.default_unit_axis(layer)
  except ValueError as error:
    return str(error).rstrip('.')
  return ''


def _holders(model: nnx.Module) -> dict[int, list[Path]]:
  """id(variable) → where the model has it: the layer whose kernel it is, or another attribute."""
  paths = collections.defaultdict(list)
  for path, node in nnx.iter_graph(model):
    is_container = isinstance(node, nnx.Pytree) or not jax.tree_util.all_leaves([node])
    if isinstance(node, nnx.Variable) or not is_container:
      continue
    kernel = base.kernel_name(node) if isinstance(node, convert.LAYERS) else None
    for name, child in nnx.iter_children(node):
      if isinstance(child, nnx.Variable):
        paths[id(child)].append(path if name == kernel else (*path, name))
  return paths


def _normalize_cells(model: nnx.Module) -> None:
  """Makes cells of `nnx` with weight-normalized layers those of `wn`."""
  for _, module in list(nnx.iter_modules(model)):
    if type(module) in _NORMALIZED_CELL:
      layers = [m for path, m in nnx.iter_modules(module) if path]
      if all(isinstance(layer, WeightNormed) for layer in layers if hasattr(layer, 'kernel')):
        convert.set_class(module, _NORMALIZED_CELL[type(module)])


def _name(path: Path, module: nnx.Module) -> str:
  return '.'.join(map(str, path)) or f'the model ({type(module).__name__})'
