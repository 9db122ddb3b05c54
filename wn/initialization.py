"""Data-dependent initialisation (Salimans & Kingma 2016, §3, Eq. 5–6)."""

import contextlib
import contextvars
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from wn import convert
from wn.layers import KernelView, WeightNormed, unit_axis
from wn.normalization import unit_norm

_NAMESAKES = (nnx.Linear, nnx.Conv, nnx.ConvTranspose)


def data_dependent_init(
  model: nnx.Module,
  *inputs: Any,
  init_scale: float | Callable[[str, nnx.Module], float] = 1.0,
  std_floor: float = 1e-3,
  **kwargs: Any,
) -> None:
  """Sets scales and biases so that every pre-activation has mean 0 and std `init_scale` (Eq. 5–6).

  Runs `model(*inputs, **kwargs)` once and changes the model in place. When the forward pass reaches
  a `Linear`, `Conv` or `ConvTranspose`, of `wn` or `nnx`, it computes t = v·x/‖v‖ and its mean μ
  and standard deviation σ per unit over all other axes, and sets

    g = c / σ,  b = −c μ / σ  with c = `init_scale`.

  The layer then returns g t + b, so later layers see normalised inputs. A plain `nnx` layer stores
  w = g v/‖v‖ in its kernel, as in the paper's baseline. A layer without a bias, as before mean-only
  batch normalisation, gets only its scale. Running means and other state are updated as usual; pass
  the arguments used in training (`train=True`, `rngs=...`).

  Works eagerly, and in `jax.jit` around `nnx.merge` and `nnx.split`. On a mesh the statistics are
  those of the global batch.

  * A layer used several times is initialised at its first use.
  * σ is at least `std_floor`; a warning gives the layer and the number of units below it.
  * Units with a zero kernel get g = c, with a warning unless they are fully masked.
  * Layers inside recurrent cells are not initialised, as the method is not meant for them (§3).
  * Layers that the forward pass does not reach, or reaches only inside a transform (`nnx.scan`,
    `jax.checkpoint`), are not initialised, and a warning names them.
  * `nnx.LinearGeneral`, `nnx.Einsum` and `nnx.Embed`, and so attention, are silently ignored.
  * In a subclass with its own forward pass, x is the argument of its `__call__`.
  * Plain layers that share a kernel variable each rescale it; only the last gets exact moments.

  Args:
    model: model to initialise.
    *inputs: positional arguments of the forward pass: the initialisation batch.
    init_scale: c, the standard deviation of the pre-activations, or a function (name, layer) → c.
      The name is the path in the model, such as 'layers.2.flow.mean', or the name of the class if
      the model is itself a layer.
    std_floor: lower bound on σ, in units of t.
    **kwargs: keyword arguments of the forward pass.

  Raises:
    ValueError: `std_floor` or the `init_scale` of a layer is not positive and finite; the model is
      unchanged.
  """
  layers = _layers_outside_cells(model)
  _check_positive('std_floor', std_floor)
  run = _Run(std_floor, _pending(layers, init_scale))
  with _intercepted([layer for _, layer in layers], run):
    model(*inputs, **kwargs)
  if run.pending:
    warnings.warn(
      'data_dependent_init: not initialised, as the forward pass does not call them or calls them '
      'inside a transform: ' + ', '.join(name for name, _ in run.pending.values()),
      stacklevel=2,
    )


@dataclasses.dataclass(frozen=True)
class _Run:
  """Settings of one call of `data_dependent_init`, and the layers not yet initialised."""

  std_floor: float
  pending: dict[int, tuple[str, float]]  # id(layer) -> (name, init_scale)


_RUN: contextvars.ContextVar[_Run | None] = contextvars.ContextVar('_RUN', default=None)


def _pending(
  layers: Sequence[tuple[str, nnx.Module]],
  init_scale: float | Callable[[str, nnx.Module], float],
) -> dict[int, tuple[str, float]]:
  """The name and the scale of each layer, by its id, checked before anything changes."""
  if not callable(init_scale):
    _check_positive('init_scale', init_scale)
  pending = {}
  for name, layer in layers:
    scale = init_scale(name, layer) if callable(init_scale) else init_scale
    _check_positive(f'init_scale of {name}', scale)
    pending[id(layer)] = name, scale
  return pending


@contextlib.contextmanager
def _intercepted(layers: Sequence[nnx.Module], run: _Run) -> Iterator[None]:
  """Lets the layers initialise themselves when they are called."""
  classes = [(layer, type(layer)) for layer in layers]
  token = _RUN.set(run)
  try:
    for layer, cls in classes:
      convert.set_class(layer, _initializing(cls))
    yield
  finally:
    for layer, cls in classes:
      convert.set_class(layer, cls)
    _RUN.reset(token)


@functools.cache
def _initializing(cls: type[nnx.Module]) -> type[nnx.Module]:
  """A subclass of a layer's class that initialises the layer on its first call.

  Python looks up `__call__` on the class, so the layers change class during the run. The model's
  own forward pass then initialises them in order.
  """

  def __call__(self, inputs: jax.Array, *args, **kwargs):
    run = _RUN.get()
    # Inside an nnx transform the layer is a copy, which `pending` does not have; inside a JAX
    # transform nnx raises TraceContextError on writing to it.
    if run is not None and id(self) in run.pending:
      with contextlib.suppress(flax.errors.TraceContextError):
        name, init_scale = run.pending[id(self)]
        _initialize(self, inputs, name, init_scale=init_scale, std_floor=run.std_floor)
        del run.pending[id(self)]
    return cls.__call__(self, inputs, *args, **kwargs)

  return type(cls.__name__, (cls,), {'__call__': __call__, '__module__': cls.__module__})


def _initialize(
  layer: nnx.Module, inputs: jax.Array, name: str, *, init_scale: float, std_floor: float
) -> None:
  """Eq. 5–6 for one layer: sets g (or the plain kernel) and b from the layer's input."""
  axis = unit_axis(layer)
  masked = layer.masked_kernel() if isinstance(layer, WeightNormed) else _masked_kernel(layer)
  norm = unit_norm(masked, unit_axis=axis)
  other_axes = tuple(i for i in range(masked.ndim) if i != axis % masked.ndim)
  unit_v = masked / jnp.expand_dims(norm, other_axes)

  view = KernelView(layer, kernel=unit_v, mask=None, bias=None, use_bias=False)
  namesake = next(cls for cls in _NAMESAKES if isinstance(layer, cls))
  t = namesake.__call__(view, inputs)
  t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
  batch_axes = tuple(range(t.ndim - 1))
  mean = jnp.mean(t, batch_axes)
  std = jnp.std(t, batch_axes)

  # A zero unit has w = 0 for any g.
  is_zero = jnp.all(masked == 0, axis=other_axes)
  g = init_scale / jnp.where(is_zero, 1.0, jnp.maximum(std, std_floor))

  if isinstance(layer, WeightNormed):
    layer.set_scale(g)
  else:
    kernel = layer.kernel[...]
    layer.kernel[...] = (kernel * jnp.expand_dims(g / norm, other_axes)).astype(kernel.dtype)
  if layer.bias is not None:
    layer.bias[...] = (-g * mean).astype(layer.bias[...].dtype)

  _warn_if_any(
    (std < std_floor) & ~is_zero,
    f'{name}: {{count}} of {std.size} units have a standard deviation below '
    f'std_floor={std_floor:g}, which was used instead. Their inputs are constant or the batch is '
    'too small.',
  )
  _warn_if_any(
    is_zero & ~_fully_masked(layer, other_axes),
    f'{name}: {{count}} of {std.size} units have a zero kernel and cannot be normalised.',
  )


def _masked_kernel(layer: nnx.Module) -> jax.Array:
  kernel = layer.kernel[...]
  mask = getattr(layer, 'mask', None)
  return kernel if mask is None else kernel * mask


def _fully_masked(layer: nnx.Module, other_axes: tuple[int, ...]) -> jax.Array:
  """[units] True for units whose weights are all masked."""
  mask = getattr(layer, 'mask', None)
  if mask is None:
    return jnp.zeros((layer.out_features,), bool)
  return jnp.all(mask == 0, axis=other_axes)


def _check_positive(name: str, value: float) -> None:
  if not 0 < value < math.inf:
    raise ValueError(f'{name} must be positive and finite; got {value}.')


def _warn_if_any(is_affected: jax.Array, message: str) -> None:
  """Warns if any unit is affected; works inside `jax.jit`."""

  def warn(count):
    if count:
      warnings.warn('data_dependent_init: ' + message.format(count=int(count)), stacklevel=2)

  count = jnp.sum(is_affected)
  if isinstance(count, jax.core.Tracer):
    jax.debug.callback(warn, count)
  else:
    warn(count)


def _layers_outside_cells(model: nnx.Module) -> list[tuple[str, nnx.Module]]:
  """(name, layer) for each layer that is not part of a recurrent cell."""
  modules = [(path, module) for path, module in nnx.iter_modules(model)]
  cells = [path for path, module in modules if isinstance(module, nnx.RNNCellBase)]

  def in_cell(path: tuple) -> bool:
    return any(path[: len(cell)] == cell for cell in cells)

  return [
    ('.'.join(map(str, path)) or type(module).__name__, module)
    for path, module in modules
    if isinstance(module, _NAMESAKES) and not in_cell(path)
  ]
