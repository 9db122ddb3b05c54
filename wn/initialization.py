"""Data-dependent initialization (Salimans & Kingma 2016, §3, Eq. 5–6)."""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flax import errors, nnx

from wn import base, convert, inspection, layer_initialization
from wn.features import Features

# `Embed` has no pre-activations.
_LAYERS = (nnx.Linear, nnx.Conv, nnx.ConvTranspose, nnx.LinearGeneral, nnx.Einsum)
InitScale = float | Callable[[str, nnx.Module], float]


def data_dependent_init(
  model: nnx.Module | Callable[..., Any],
  *inputs: Any,
  init_scale: InitScale = 1.0,
  std_floor: float = 1e-3,
  axis_name: str | None = None,
  **kwargs: Any,
) -> None:
  """Sets scales and biases so that every pre-activation has mean 0 and std `init_scale` (Eq. 5–6).

  Runs `model(*inputs, **kwargs)` once and changes the model in place. When the forward pass reaches
  a `Linear`, `Conv`, `ConvTranspose`, `LinearGeneral` or `Einsum`, of `wn` or `nnx`, it computes
  t = v·x/‖v‖ and its mean μ and standard deviation σ per unit over all other axes, and sets

    g = c / σ,  b = −c μ / σ  with c = `init_scale`.

  The layer then returns g t + b, so later layers see normalized inputs. A plain `nnx` layer stores
  w = g v/‖v‖ in its kernel, as in the paper's baseline. A layer without a bias, as before mean-only
  batch normalization, gets only its scale. Running means and other state are updated as usual; pass
  the arguments used in training (`train=True`, `rngs=...`). During the run the layers have classes
  derived from their own, so a forward pass must not ask for their `type`, only for `isinstance`.

  Works eagerly, and in `jax.jit` around `nnx.merge` and `nnx.split`. On a mesh the statistics are
  those of the global batch; under `jax.pmap` or `shard_map` pass `axis_name`.

  Every layer is initialized, or a warning says which is not and why:

  * A layer used several times is initialized at its first use.
  * σ is at least `std_floor`; a warning gives the layer and the number of units below it.
  * Units with a zero weight keep it, with a warning unless they are fully masked.
  * Where the units of a layer are not its output features (`unit_axis`), all its g are multiplied
    by the factor with which the pre-activations, about the mean of their feature, have std c.
  * Not initialized are layers that the forward pass does not reach, or reaches only inside a
    transform (`nnx.scan`, `jax.checkpoint`); those in recurrent cells, as the method is not meant
    for them (§3); those inside `nnx.WeightNorm`, `nnx.SpectralNorm` or `wn.WeightNorm`; plain ones
    whose kernel has hooks or a type that may change its value; and an `Einsum` that does not name
    the axes of its kernel.
  * In a subclass with its own forward pass, x is what it passes to its parent's by `super()`, or
    else the first argument of its `__call__`.
  * Layers that share a variable which is set, a scale, a bias or a plain kernel, do not get exact
    moments, as the last sets it anew; a warning names them.
  * Statistics that are not finite, from the inputs or the model, are never used: an error eagerly;
    in `jax.jit` the layer keeps what it had, with a warning.

  Example::

    wn.data_dependent_init(model, images, train=True)
    wn.data_dependent_init(model.encode, images)  # a method

  Args:
    model: model to initialize, or a method of one; `nnx.jit` and `functools.partial` of these will
      do, and are run without `nnx.jit`.
    *inputs: positional arguments of the forward pass: the initialization batch.
    init_scale: c, the standard deviation of the pre-activations, or a function (name, layer) → c.
      The name is the path in the model, such as 'layers.2.flow.mean', or the name of the class if
      the model is itself a layer.
    std_floor: lower bound on σ, in units of t.
    axis_name: mapped axis over which to average the statistics.
    **kwargs: keyword arguments of the forward pass.

  Raises:
    TypeError: `model` is neither a module nor a method of one, or its parameters are not arrays.
    ValueError: `std_floor` or the `init_scale` of a layer is not positive and finite, the batch is
      empty, or statistics are not finite. The model's parameters are unchanged, as they are when
      the forward pass itself raises.
  """
  module, forward = _module_of(model)
  base.check_values('wn.data_dependent_init', module)
  layers, left = _layers_of(module)
  check_positive('std_floor', std_floor)
  run = _Run(std_floor, axis_name, _pending(layers, init_scale), left)
  if not layers and not left:
    warnings.warn(
      f'data_dependent_init: {type(module).__name__} has no layers to initialize.', stacklevel=2
    )
  with _undone_on_error([layer for _, layer in layers]), _intercepted(module, layers, run):
    forward(*inputs, **kwargs)
  _warn_of_shared(
    [(name, m) for name, m in layers if id(m) not in run.pending and name not in left]
  )
  for name, _ in run.pending.values():
    left[name] = 'the forward pass does not call them or calls them inside a transform'
  for reason in dict.fromkeys(left.values()):
    names = ', '.join(name for name, why in left.items() if why == reason)
    warnings.warn(f'data_dependent_init: not initialized, as {reason}: {names}', stacklevel=2)


def _module_of(model: Any) -> tuple[nnx.Module, Callable[..., Any]]:
  """The module that a callable belongs to, and the callable without `nnx.jit`."""
  if isinstance(model, functools.partial):
    if model.args and _is_method(model.func, model.args[0]):  # how `nnx.jit` binds methods
      method = _without_jit(model.func)
      return model.args[0], functools.partial(method, *model.args, **model.keywords)
    module, forward = _module_of(model.func)
    return module, functools.partial(forward, *model.args, **model.keywords)
  if inspect.ismethod(model) and isinstance(model.__self__, nnx.Module):
    return model.__self__, model
  wrapped = getattr(model, '__wrapped__', None)
  if wrapped is not None:
    return _module_of(wrapped)
  if isinstance(model, nnx.Module):
    call = type(model).__call__
    plain = _without_jit(call)
    is_as_it_is = plain is call or isinstance(model, _LAYERS)  # see `_initializing`
    return model, model if is_as_it_is else functools.partial(plain, model)
  raise TypeError(
    f'model must be an nnx.Module or a method of one; got {model!r}. In place of a function, pass '
    'the model itself, or put the forward pass into a method of the model.'
  )


def _is_method(function: Any, module: Any) -> bool:
  """Whether a function is in the class of a module."""
  if not isinstance(module, nnx.Module):
    return False
  return any(value is function for cls in type(module).__mro__ for value in vars(cls).values())


def _without_jit(function: Any) -> Any:
  """The function that `nnx.jit` decorates, with what else decorates it."""
  return inspect.unwrap(function, stop=inspect.isfunction)


@dataclasses.dataclass(frozen=True)
class _Run:
  """Settings of one call of `data_dependent_init`, and the layers not yet initialized."""

  std_floor: float
  axis_name: str | None
  pending: dict[int, tuple[str, float]]  # id(layer) -> (name, init_scale)
  left: dict[str, str]  # name of a layer that cannot be initialized -> the reason


_RUN: contextvars.ContextVar[_Run | None] = contextvars.ContextVar('_RUN', default=None)


def _pending(
  layers: Sequence[tuple[str, nnx.Module]], init_scale: InitScale
) -> dict[int, tuple[str, float]]:
  """The name and the scale of each layer, by its id, checked before anything changes."""
  if not callable(init_scale):
    check_positive('init_scale', init_scale)
  pending = {}
  for name, layer in layers:
    scale = init_scale(name, layer) if callable(init_scale) else init_scale
    check_positive(f'init_scale of {name}', scale)
    pending[id(layer)] = name, scale
  return pending


@contextlib.contextmanager
def _undone_on_error(layers: Sequence[nnx.Module]) -> Iterator[None]:
  """Gives the layers their old parameters back if the block raises."""
  names = ('kernel', 'scale', 'bias')
  found = [getattr(layer, name, None) for layer in layers for name in names]
  old = [(variable, variable[...]) for variable in found if isinstance(variable, nnx.Variable)]
  try:
    yield
  except BaseException:
    for variable, value in old:
      variable[...] = value
    raise


@contextlib.contextmanager
def _intercepted(
  model: nnx.Module, layers: Sequence[tuple[str, nnx.Module]], run: _Run
) -> Iterator[None]:
  """Lets the layers initialize themselves when they are called."""
  classes = [(layer, type(layer), _initializing(type(layer))) for _, layer in layers]
  token = _RUN.set(run)
  try:
    for layer, _, initializing in classes:
      convert.set_class(layer, initializing)
    yield
  finally:
    _RUN.reset(token)
    for layer, own, _ in classes:
      convert.set_class(layer, own)
    of = {initializing: own for _, own, initializing in classes}
    for _, part in nnx.iter_modules(model):  # also copies, by which the forward pass replaced some
      if type(part) in of:
        convert.set_class(part, of[type(part)])


@functools.cache
def _initializing(cls: type[nnx.Module]) -> type[nnx.Module]:
  """A subclass of a layer's class that initializes the layer on its first call.

  Python looks up `__call__` on the class, so the layers change class during the run. The model's
  own forward pass then initializes them in order. Where a subclass calls its parent by `super()`,
  the parent's call is intercepted, as its argument is what the kernel is multiplied with.
  """
  parent = next(c for c in cls.__mro__ if c in convert.LIBRARY_CLASSES)
  before = cls.__mro__[: cls.__mro__.index(parent)]
  own = [vars(c)['__call__'] for c in before if '__call__' in vars(c)]
  if not all('super' in inspection.names_in(function) for function in own):
    parent = cls

  def __call__(self, *args, **kwargs):
    run = _RUN.get()
    if run is None or id(self) not in run.pending:
      # Inside an nnx transform the layer is a copy, which `pending` does not have.
      return parent.__call__(self, *args, **kwargs)
    name, init_scale = run.pending[id(self)]
    inputs, rest, options = _split(parent, self, *args, **kwargs)
    if parent not in convert.LIBRARY_CLASSES and not hasattr(inputs, 'shape'):
      del run.pending[id(self)]
      run.left[name] = 'the first argument of their forward pass is not an array'
      return parent.__call__(self, *args, **kwargs)
    try:
      usual = layer_initialization.initialize(
        self, name, init_scale, run.std_floor, run.axis_name, inputs, *rest, **options
      )
    except errors.TraceContextError:  # inside a JAX transform
      return parent.__call__(self, *args, **kwargs)
    del run.pending[id(self)]
    outputs = parent.__call__(self, *args, **kwargs)
    if parent is cls and own:
      layer_initialization.check_own_forward(name, init_scale, usual, outputs)
    return outputs

  # `nnx.Sequential` asks for it, to know whether to pass `rngs`.
  __call__.__signature__ = inspect.signature(parent.__call__)  # type: ignore[attr-defined]
  names = {'__call__': __call__, '__module__': parent.__module__}
  options = convert.class_options(cls)
  between: Any = type(parent.__name__, (parent,), names, **options)
  if parent is cls:
    return between
  # In `nnx.jit` the layer would be a copy.
  call = {'__call__': _without_jit(own[0])} if own else {}
  names = {'__module__': cls.__module__, **call}
  return type(cls.__name__, (cls, between), names, **options)


def _split(
  parent: type[nnx.Module], *args: Any, **kwargs: Any
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
  """The input in a call of a layer, and the other arguments that the library's `__call__` has."""
  call = inspect.signature(_without_jit(parent.__call__)).bind(*args, **kwargs)
  if parent in convert.LIBRARY_CLASSES:
    _, inputs, *rest = call.args
    return inputs, tuple(rest), call.kwargs
  return next(iter((*call.args[1:], *call.kwargs.values()))), (), {}


def check_positive(name: str, value: float) -> None:
  """Raises ValueError unless the value is positive and finite."""
  if not 0 < value < math.inf:
    raise ValueError(f'{name} must be positive and finite; got {value}.')


def _layers_of(model: nnx.Module) -> tuple[list[tuple[str, nnx.Module]], dict[str, str]]:
  """(name, layer) of the layers to initialize, and the reasons against the others by name."""
  layers, excluded = [], {}
  for path, module, ancestors in convert.modules(model):
    if not isinstance(module, _LAYERS):
      continue
    name = '.'.join(map(str, path)) or type(module).__name__
    rewriter = next((m for m in ancestors if isinstance(m, convert.REWRITERS)), None)
    if rewriter is not None:
      excluded[name] = f'{type(rewriter).__name__} computes their kernels'
    elif any(isinstance(m, nnx.RNNCellBase) for m in ancestors):
      excluded[name] = 'the method is not meant for recurrent cells (§3)'
    elif base.is_computed(module.kernel) and not base.is_normalized(module):
      excluded[name] = 'their kernels have hooks or types that may change their values'
    elif reason := _unknown_features(module):
      excluded[name] = reason
    else:
      layers.append((name, module))
  return layers, excluded


def _warn_of_shared(layers: Sequence[tuple[str, nnx.Module]]) -> None:
  """Warns of initialized layers that share what is set: a scale, a bias, or a plain kernel."""
  users: dict[tuple[str, int], list[tuple[str, nnx.Module]]] = {}
  for name, layer in layers:
    for part in ('kernel', 'scale', 'bias'):
      if isinstance(variable := getattr(layer, part, None), nnx.Variable):
        users.setdefault((part, id(variable)), []).append((name, layer))
  for (part, _), found in users.items():
    if part == 'kernel':  # w of a normalized layer stays as it is where v of its units is scaled
      num_plain = sum(not base.is_normalized(layer) for _, layer in found)
      units = {base.unit_axes(layer) for _, layer in found}
      if not num_plain or (num_plain == 1 and len(units) == 1):
        continue
    if len(found) > 1:
      *names, last = (name for name, _ in found)
      warnings.warn(
        f'data_dependent_init: {", ".join(names)} and {last} share their {part}, which '
        'the last sets anew: their pre-activations do not get mean 0 and the std asked for.',
        stacklevel=3,
      )


def _unknown_features(layer: nnx.Module) -> str:
  """Why the axes of a layer's output features cannot be told, or ''."""
  try:
    Features.of(layer)
  except ValueError as error:
    return str(error).rstrip('.')
  return ''
