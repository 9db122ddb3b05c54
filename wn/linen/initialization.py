"""Data-dependent initialization (Salimans & Kingma 2016, §3, Eq. 5–6) of Linen models."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import meta, tracers

from wn import initialization, layer_initialization, scales
from wn.linen import layers
from wn.linen.layers import WeightNormed
from wn.normalization import compute_dtype, norm_axes, unit_norm, weight_norm

Path = tuple[str, ...]
Params = dict[str, jax.Array]

# `Embed` has no pre-activations.
_LAYERS = tuple(cls for cls in layers.PLAIN if cls is not nn.Embed)
_IN_TRANSFORM = 'the forward pass does not call it, or calls it inside a transform'


def data_dependent_init(
  model: nn.Module,
  variables: Mapping[str, Any],
  *inputs: Any,
  init_scale: float | Callable[[str, nn.Module], float] = 1.0,
  std_floor: float = 1e-3,
  **kwargs: Any,
) -> dict[str, Any]:
  """Variables with which every pre-activation has mean 0 and std `init_scale` (Eq. 5–6).

  Runs `model.apply` once. When the forward pass reaches a `Dense`, `DenseGeneral`, `Conv` or
  `ConvTranspose`, of `wn.linen` or `nn`, it computes t = v·x/‖v‖ and its mean μ and standard
  deviation σ per unit over all other axes, and sets

    g = c / σ,  b = −c μ / σ  with c = `init_scale`.

  The layer then returns g t + b, so later layers see normalized inputs. The rules are those of
  `wn.data_dependent_init`: a plain layer stores w = g v/‖v‖, as in the paper's baseline; a layer
  without bias gets only its scale; the first use of a layer counts; of subclasses the input is what
  they pass to `super().__call__`. Other collections, such as running means, are updated as usual.
  Works in `jax.jit`. Warnings name:

  * layers with units whose σ is below `std_floor`, which is used instead, or whose kernel is zero;
  * layers not initialized, and other kernels: those that the forward pass does not reach, or
    reaches only inside a transform (`nn.scan`, `nn.remat`, `nn.jit`, `nn.WeightNorm`; a model
    without `nn.remat` has the same variables), and those in recurrent cells.

  Example::

    variables = model.init(jax.random.key(0), images)
    variables = wn.linen.data_dependent_init(model, variables, images)

  Args:
    model: any model.
    variables: its variables.
    *inputs: positional arguments of the forward pass: the initialization batch.
    init_scale: c, or a function (name, layer) → c; names are paths, such as 'encoder.Conv_0'.
    std_floor: lower bound on σ, in units of t.
    **kwargs: keyword arguments of `model.apply`, such as `method`, `rngs` and those of the model.

  Returns:
    The new variables; those given are not changed.

  Raises:
    ValueError: `std_floor` or an `init_scale` is not positive and finite, the batch is empty, the
      variables have no 'params', `mutable` is given, or statistics are not finite (in `jax.jit`
      the layer then keeps what it had, with a warning).
  """
  initialization.check_positive('std_floor', std_floor)
  if not callable(init_scale):
    initialization.check_positive('init_scale', init_scale)
  if 'mutable' in kwargs:
    raise ValueError('mutable: all collections but params are, and are returned with them.')
  params = layers.params_of(variables)
  run = _Run(params, init_scale, std_floor)
  if not run.pending:
    message = f'data_dependent_init: {type(model).__name__} has no layers to initialize.'
    warnings.warn(message, stacklevel=2)
  state = [collection for collection in variables if collection != 'params']
  with nn.intercept_methods(run.intercept):
    _, updated = model.apply(variables, *inputs, mutable=state, **kwargs)
  if run.pending:
    left = ', '.join(f'{layers.name_of(p, model)} ({why})' for p, why in run.pending.items())
    warnings.warn(f'data_dependent_init: not initialized: {left}', stacklevel=2)
  for path, new in run.new.items():
    for name, value in new.items():
      params[*path, name] = meta.replace_boxed(params[*path, name], value)
  return {**variables, **updated, 'params': traverse_util.unflatten_dict(params)}


class _Run:
  """One call of `data_dependent_init`.

  Attributes:
    pending: reasons why layers are not initialized, by path.
    new: the parameters of those that are.
  """

  def __init__(
    self,
    params: Mapping[Path, Any],
    init_scale: float | Callable[[str, nn.Module], float],
    std_floor: float,
  ):
    self.params = params
    self.init_scale = init_scale
    self.std_floor = std_floor
    self.pending = {path[:-1]: _IN_TRANSFORM for path in params if path[-1] == 'kernel'}
    self.new: dict[Path, Params] = {}
    self.is_inside = False
    self.trace = tracers.current_trace()

  def intercept(self, next_fun, args, kwargs, context: nn.module.InterceptorContext) -> Any:
    """Initializes a layer at its first call, and computes every call with its new parameters."""
    layer, path = context.module, context.module.path
    if path in self.pending:  # which, where modules share a scope, may be the path of several
      unknown = f'it does not know {type(layer).__name__}'
      self.pending[path] = _IN_TRANSFORM if _namesake(layer) else unknown
    if self.is_inside or not _is_forward_of_library(context):
      return next_fun(*args, **kwargs)
    self.is_inside = True  # `_forward` calls a layer of its own
    try:
      if path in self.pending and self._may_initialize(path, layer):
        self.new[path] = self._initialized(path, layer, *args, **kwargs)
        del self.pending[path]
      if path in self.new:
        return _forward(layer, self.new[path], *args, **kwargs)
      return next_fun(*args, **kwargs)
    finally:
      self.is_inside = False

  def _may_initialize(self, path: Path, layer: nn.Module) -> bool:
    if _is_in_cell(layer):
      self.pending[path] = 'in a recurrent cell'
      return False
    # `nn.WeightNorm` gives the layer arrays of its own, without a transform of JAX. Compared are
    # those in the boxes, as unboxing on a mesh makes new ones.
    own, given = layer.get_variable('params', 'kernel'), self.params[*path, 'kernel']
    is_given = jax.tree.leaves(own)[0] is jax.tree.leaves(given)[0]
    return is_given and tracers.current_trace() == self.trace

  def _initialized(self, path: Path, layer: nn.Module, inputs: jax.Array) -> Params:
    name = layers.name_of(path, layer)
    init_scale = self.init_scale(name, layer) if callable(self.init_scale) else self.init_scale
    initialization.check_positive(f'init_scale of {name}', init_scale)
    boxes = {p[-1]: box for p, box in self.params.items() if p[:-1] == path}
    old = {key: jnp.asarray(meta.unbox(box)) for key, box in boxes.items()}
    new = _initialized(layer, name, old, init_scale, self.std_floor, inputs)
    return {key: value.reshape(old[key].shape).astype(old[key].dtype) for key, value in new.items()}


def _initialized(
  layer: nn.Module,
  name: str,
  params: Params,
  init_scale: float,
  std_floor: float,
  inputs: jax.Array,
) -> Params:
  """Eq. 5–6 for one layer: its parameters with g (or the plain kernel) and b from its input."""
  v = layers.masked(params['kernel'], getattr(layer, 'mask', None))
  axes = layers.unit_axes(layer, v.ndim)
  other_axes = norm_axes(v.ndim, axes)
  norm = unit_norm(v, unit_axis=axes)
  is_normalized = isinstance(layer, WeightNormed)
  log_scale = scales.log_factor(layer.log_scale) if is_normalized else 0
  old_g = scales.read_scale(params['scale'], log_scale) if is_normalized else norm
  is_zero = jnp.all(v == 0, axis=other_axes)  # w = 0 for any g
  stays_zero = old_g == 0 if is_normalized else is_zero

  is_per_feature = set(axes) == set(layers.feature_axes(layer, v.ndim))
  start = jnp.ones_like(norm) if is_per_feature else old_g
  mean, std = _moments(layer, name, weight_norm(v, start, unit_axis=axes), inputs)
  if not is_per_feature:
    std = jnp.sqrt(jnp.mean(jnp.square(std)))  # one factor for all units
    is_zero, stays_zero = jnp.all(is_zero | stays_zero), jnp.zeros((), bool)
  num_bad = jnp.sum(~jnp.isfinite(mean) | ~jnp.isfinite(std))
  is_finite = layer_initialization.check_finite(name, num_bad, mean.size)
  factor = init_scale / jnp.where(is_zero, 1.0, jnp.maximum(std, std_floor))
  # A plain zero kernel stays zero for any g.
  by_feature = jnp.where(stays_zero, 0.0, factor) if is_normalized else factor

  new = {'bias': -by_feature * mean}
  if is_normalized:
    g = by_feature if is_per_feature else factor * old_g
    new['scale'] = scales.stored_scale(jnp.where(is_finite, g, old_g), log_scale)
  else:
    new['kernel'] = params['kernel'] * jnp.expand_dims(factor / norm, other_axes)
  _warn(layer, name, std, std_floor, is_zero, stays_zero, other_axes)
  return {
    key: jnp.where(is_finite, new[key].reshape(old.shape), old) if key in new else old
    for key, old in params.items()
  }


def _moments(
  layer: nn.Module, name: str, kernel: jax.Array, inputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean and standard deviation of every feature of the layer's output without bias, in float32."""
  t = _apply(layer, {'kernel': kernel}, inputs, use_bias=False)
  if t.size == 0:
    raise ValueError(f'{name}: the batch is empty, as its inputs have shape {inputs.shape}.')
  t = t.astype(compute_dtype(t.dtype))
  features = {axis % t.ndim for axis in layers.output_axes(layer)}
  other_axes = tuple(axis for axis in range(t.ndim) if axis not in features)
  return jnp.mean(t, other_axes), jnp.std(t, other_axes)


def _warn(
  layer: nn.Module,
  name: str,
  std: jax.Array,
  std_floor: float,
  is_zero: jax.Array,
  stays_zero: jax.Array,
  other_axes: tuple[int, ...],
) -> None:
  mask = getattr(layer, 'mask', None)
  mask = None if mask is None else jnp.asarray(mask)
  layer_initialization.warn_if_any(
    jnp.sum((std < std_floor) & ~is_zero & ~stays_zero),
    f'{name}: {{count}} of {std.size} units have a standard deviation below '
    f'std_floor={std_floor:g}, which was used instead. Their inputs are constant or the batch is '
    'too small.',
  )
  layer_initialization.warn_if_any(
    jnp.sum((is_zero | stays_zero) & ~layer_initialization.fully_masked(mask, other_axes, is_zero)),
    f'{name}: {{count}} of {std.size} units have a zero kernel and cannot be normalized.',
  )


def _forward(layer: nn.Module, params: Params, inputs: jax.Array) -> jax.Array:
  """The library's forward pass of a layer with these parameters in place of its own."""
  if isinstance(layer, WeightNormed):
    mask = getattr(layer, 'mask', None)
    w = layers.weight(layer, params['kernel'], params['scale'], mask)
    params = {'kernel': w} | {key: params[key] for key in ('bias',) if key in params}
  return _apply(layer, params, inputs)


def _apply(layer: nn.Module, params: Params, inputs: jax.Array, **fields: Any) -> jax.Array:
  """The output of the layer of `nn` that has these parameters, and all other fields of a layer."""
  cls = _namesake(layer)
  assert cls is not None
  names = {field.name for field in dataclasses.fields(cls)} - {'parent', 'name'}
  plain = cls(**{name: getattr(layer, name) for name in names} | fields, parent=None)
  outputs = plain.apply({'params': params}, inputs)
  assert isinstance(outputs, jax.Array)
  return outputs


def _namesake(layer: nn.Module) -> type[nn.Module] | None:
  """The class of `nn` that a layer extends, or None if it has no pre-activations."""
  return next((cls for cls in _LAYERS if isinstance(layer, cls)), None)


def _is_forward_of_library(context: nn.module.InterceptorContext) -> bool:
  """Whether a call is one of a layer's forward pass in `nn`, and not of a subclass's own."""
  cls, method = _namesake(context.module), context.orig_method
  if cls is None:
    return False
  assert isinstance(method, functools.partial)  # the function, with the module as its `self`
  return inspect.unwrap(method.func) is inspect.unwrap(cls.__call__)


def _is_in_cell(layer: nn.Module) -> bool:
  module = layer
  while isinstance(module, nn.Module):
    if isinstance(module, nn.RNNCellBase):
      return True
    module = module.parent
  return False
