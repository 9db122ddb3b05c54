"""Folds v and g into plain weights, and unfolds them."""

import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct, traverse_util
from flax.core import meta, tracers, unfreeze
from jax.core import Tracer

from wn import scales
from wn.linen import layers
from wn.linen.layers import WeightNormed

Path = tuple[str, ...]


def fold(
  model: nn.Module, variables: Mapping[str, Any], *inputs: Any, **kwargs: Any
) -> dict[str, Any]:
  """Variables for the same model with the layers of `nn`: kernel = w (Eq. 2), and no `scale`.

  Traces `model.init`, without computing it, to find the layers and the axes of their units.
  Differentiable. Other collections stay as they are. Kernels are float32, or keep their dtype if
  the layer's `dtype` is the same or None.

  Example::

    plain = wn.linen.fold(model, variables, x)
    y = Net(layers=nn).apply(plain, x)  # == Net(layers=wn.linen).apply(variables, x)

  Args:
    model: model with layers of `wn.linen`.
    variables: its variables.
    *inputs: arguments of `model.init`.
    **kwargs: keyword arguments of `model.init`, such as `method` and those of the model.

  Returns:
    The new variables; those given are not changed. Layers that `model.init` does not reach stay
    weight-normalized, with a warning that names them.

  Raises:
    ValueError: the model or one with a `scale` in the variables is of `nn`, a layer has no `kernel`
      and `scale` there, the kernels of `nn.scan` or `nn.vmap` are stacked along another axis than
      the first, a mask is computed in them, or the variables have no 'params'.
  """
  params = layers.params_of(variables)
  found, plain, reached = _layers(model, params, inputs, kwargs)
  for path in sorted(plain):
    if (*path, 'scale') in params:
      raise ValueError(
        f'{layers.name_of(path, model)} has a scale, but the layer of this model is plain. Give '
        'the model with the layers of wn.linen.'
      )
  for path, name, layer, ndim, mask in found:
    if (*path, 'scale') not in params:
      raise ValueError(f'{layers.name_of(path, layer)} has no scale: it is folded already.')
    box, scale = params[*path, name], meta.unbox(params.pop((*path, 'scale')))
    w = layers.weight(layer, meta.unbox(box), scale, mask, ndim)
    params[*path, name] = meta.replace_boxed(box, w)
  left = [path for path in _not_reached(params, reached) if (*path, 'scale') in params]
  if left:
    names = ', '.join(layers.name_of(path, model) for path in left)
    warnings.warn(f'wn.linen.fold: not reached by init, left as they are: {names}', stacklevel=2)
  elif not found:
    raise ValueError(f'{type(model).__name__} has no layers of wn.linen.')
  return {**variables, 'params': traverse_util.unflatten_dict(params)}


def unfold(
  model: nn.Module, variables: Mapping[str, Any], *inputs: Any, **kwargs: Any
) -> dict[str, Any]:
  """Variables for a model with layers of `wn.linen` from those of the plain one: v = w, g = ‖w‖.

  The reverse of `fold`, and the way to continue from a checkpoint of a plain model. Units with a
  zero kernel get a random direction and g = 0. Layers that have a `scale` keep it.

  Example::

    variables = wn.linen.unfold(Net(layers=wn.linen), plain, x)

  Args:
    model: model with layers of `wn.linen`.
    variables: those of the same model with layers of `nn`.
    *inputs: arguments of `model.init`.
    **kwargs: keyword arguments of `model.init`, as for `fold`.

  Returns:
    The new variables; those given are not changed. Layers that `model.init` does not reach stay
    plain, with a warning that names them.

  Raises:
    ValueError: as for `fold`, but for the lack of `scale`.
  """
  params = layers.params_of(variables)
  found, _, reached = _layers(model, params, inputs, kwargs)
  for path, name, layer, ndim, mask in found:
    if (*path, 'scale') in params:
      continue
    box = params[*path, name]
    v = jnp.asarray(meta.unbox(box))
    axes, log_scale = layers.unit_axes(layer, v.ndim, ndim), scales.log_factor(layer.log_scale)
    mask = None if mask is None else jnp.broadcast_to(mask, v.shape)
    g, v = scales.start_at(v, axes, log_scale, layers.name_of(path, layer), mask)
    params[*path, name] = box = meta.replace_boxed(box, v)
    params[*path, 'scale'] = layers.new_scale(box, g, axes, log_scale)
  left = [path for path in _not_reached(params, reached) if (*path, 'scale') not in params]
  if left:
    names = ', '.join(layers.name_of(path, model) for path in left)
    warnings.warn(f'wn.linen.unfold: not reached by init, left as they are: {names}', stacklevel=2)
  elif not found:
    raise ValueError(f'{type(model).__name__} has no layers of wn.linen.')
  return {**variables, 'params': traverse_util.unflatten_dict(params)}


class _Stacked(struct.PyTreeNode, meta.AxisMetadata[Any]):
  """A box of Flax that counts the axes which `nn.scan` and `nn.vmap` add to a parameter."""

  value: Any
  axes: tuple[int, ...] = struct.field(pytree_node=False, default=())

  def unbox(self) -> Any:
    return self.value

  def replace_boxed(self, val: Any) -> '_Stacked':
    return self.replace(value=val)

  def add_axis(self, index: int, params: Mapping[Any, Any]) -> '_Stacked':
    return self.replace(axes=(*self.axes, index))

  def remove_axis(self, index: int, params: Mapping[Any, Any]) -> '_Stacked':
    return self.replace(axes=self.axes[:-1])

  def is_along_first_axes(self) -> bool:
    return all(0 <= index <= depth for depth, index in enumerate(self.axes))


def _layers(
  model: nn.Module,
  params: Mapping[Path, Any],
  inputs: tuple[Any, ...],
  kwargs: Mapping[str, Any],
) -> tuple[list[tuple[Path, str, WeightNormed, int, Any]], set[Path], set[Path]]:
  """What `model.init` reaches: normalized layers, paths of plain layers, and of all parameters.

  Of each normalized layer: path, name of the weight, layer, number of axes of one kernel, mask.
  """
  found = {}
  plain: set[Path] = set()
  created: dict[Path, Any] = {}

  def intercept(next_fun, args, kwargs, context):
    outputs = next_fun(*args, **kwargs)
    layer = context.module
    if isinstance(layer, WeightNormed):
      for name in layers.WEIGHTS:
        if layer.has_variable('params', name):
          is_inside = tracers.current_trace() != trace[-1]
          found[*layer.path, name] = layer, layers.param(layer, name).shape, is_inside
          # Axes are added inside transforms alone; elsewhere models may read `scale` themselves.
          can_stack = is_inside and layer.is_mutable_collection('params')
          scale = layer.get_variable('params', 'scale')
          if can_stack and not isinstance(scale, _Stacked):
            layer.put_variable('params', 'scale', _Stacked(meta.unbox(scale)))
    elif isinstance(layer, layers.PLAIN):
      plain.add(layer.path)
    return outputs

  trace = []

  def init():
    trace.append(tracers.current_trace())
    # Not `apply`: it lacks `scale` before `unfold`, and the keys and mutable state of training.
    variables = unfreeze(model.init(jax.random.key(0), *inputs, **kwargs))
    created.update(traverse_util.flatten_dict(variables.get('params', {})))
    return _masks(found)

  with nn.intercept_methods(intercept):
    jax.eval_shape(init)
    masks = _masks(found)
    if any(isinstance(mask, Tracer) for mask in masks.values()):
      masks = jax.jit(init)()  # computes no more than the masks
  result = []
  for key, (layer, shape, _) in found.items():
    path, name = key[:-1], key[-1]
    label = layers.name_of(path, layer)
    scale = created.get((*path, 'scale'))
    if isinstance(scale, _Stacked) and not scale.is_along_first_axes():
      raise ValueError(
        f'{label}: nn.scan or nn.vmap stacks its parameters along another axis than the first. Use '
        "variable_axes={'params': 0}."
      )
    actual = jnp.shape(meta.unbox(params.get(key, ())))
    if actual[max(len(actual) - len(shape), 0) :] != shape:
      raise ValueError(
        f'{label}: {name} must have shape {shape}, or a stack of such along its first axes; got '
        f'{actual}.'
      )
    result.append((path, name, layer, len(shape), masks.get(key)))
  return result, plain, {*created}


def _not_reached(params: Mapping[Path, Any], reached: set[Path]) -> list[Path]:
  """The paths of modules with a kernel or embedding that `model.init` does not reach."""
  return [key[:-1] for key in params if key[-1] in layers.WEIGHTS and key not in reached]


def _masks(found: Mapping[Path, tuple[WeightNormed, tuple[int, ...], bool]]) -> dict[Path, Any]:
  """The masks that layers have, which a model may compute in its forward pass."""
  masks = {}
  for key, (layer, _, is_inside) in found.items():
    mask = getattr(layer, 'mask', None)
    if isinstance(mask, Tracer) and is_inside:
      raise ValueError(
        f'{layers.name_of(key[:-1], layer)}: its mask is computed inside a transform, such as '
        'nn.scan. Compute it with NumPy.'
      )
    if mask is not None:
      masks[key] = mask
  return masks
