"""The weights of PyTorch modules: w, or g and v of weight normalization in its two spellings."""

import dataclasses

import numpy as np
from flax import nnx

from wn import base
from wn.base import WeightNormed
from wn.normalization import norm_axes
from wn.torch_layouts import Layout, Source, Write, assign, join, on_device, stack, to_numpy


@dataclasses.dataclass(frozen=True)
class Weight:
  """A weight in PyTorch, and the layers whose kernels it has one below the other (on axis 0).

  Attributes:
    path: the module's path in the model.
    name: the weight's name in the module, such as 'weight' or 'weight_hh_l0'.
    layers: (path, layer) of each.
  """

  path: str
  name: str
  layers: tuple[tuple[str, nnx.Module], ...]

  @property
  def variables(self) -> list[nnx.Variable]:
    """All variables of the model that it stands for."""
    layers = [layer for _, layer in self.layers]
    kernels = [base.kernel_of(layer) for layer in layers]
    return kernels + [layer.scale for layer in layers if isinstance(layer, WeightNormed)]

  @property
  def _shape(self) -> tuple[int, ...]:
    shapes = [Layout.of(layer).torch_shape for _, layer in self.layers]
    return sum(shape[0] for shape in shapes), *shapes[0][1:]

  def _forms(self) -> dict[str, tuple[str, str]]:
    parametrization = f'parametrizations.{self.name}.original'
    return {
      'weight_norm': (f'{self.name}_g', f'{self.name}_v'),
      'parametrizations': (f'{parametrization}0', f'{parametrization}1'),
    }

  def load(self, source: Source) -> list[Write]:
    """What to write for the arrays in `source`."""
    path, layer = self.layers[0]
    attribute = base.kernel_name(layer)
    owner = f'{type(layer).__name__} {join(path, attribute)}'
    if len(self.layers) > 1:
      names = ', '.join(path.split('.')[-1] for path, _ in self.layers)
      owner = f'{names} of {self.path or "the model"}, each'
    own_shape = base.kernel_of(layer)[...].shape
    self._note_groups(source, layer)
    form = next((f for f in self._forms().values() if source.leaves.keys() & {*f}), None)
    if form is None:
      v, g = source.take(self.name, self._shape, owner, own_shape), None
    else:
      v = source.take(form[1], self._shape, owner, own_shape)
      entry = source.leaves.get(form[0])
      shape = _g_shape(entry.array.shape if entry else None, self._shape)
      if isinstance(layer, WeightNormed):
        owner, own_shape = owner.replace(attribute, 'scale'), layer.scale[...].shape
      g = source.take(form[0], shape, owner, own_shape)
      if g is None:
        return []
    return [] if v is None else self._writes(source, form[1] if form else self.name, v, g)

  def _note_groups(self, source: Source, layer: nnx.Module) -> None:
    """Says so if the weight is that of a transposed convolution with groups."""
    needed = self._shape
    for leaf in (self.name, *(v for _, v in self._forms().values())):
      shape = source.leaves[leaf].array.shape if leaf in source.leaves else needed
      is_alike = len(shape) == len(needed) and (shape[0], *shape[2:]) == (needed[0], *needed[2:])
      if isinstance(layer, nnx.ConvTranspose) and is_alike and shape[1] < needed[1]:
        source.problems.append(
          f'{source.leaves[leaf].key}: if it is of a transposed convolution with groups, that has '
          'no counterpart, as nnx.ConvTranspose has no groups'
        )

  def _writes(self, source: Source, leaf: str, v: np.ndarray, g: np.ndarray | None) -> list[Write]:
    w = v if g is None else _weight(v, g)
    ends = np.cumsum([Layout.of(layer).torch_shape[0] for _, layer in self.layers])[:-1]
    parts = [np.split(a, ends) for a in (w, v)]
    # A norm over rows of several layers is none of theirs.
    gs: list[np.ndarray | None] = [None] * len(self.layers)
    if g is not None and len(self.layers) == 1:
      gs = [g]
    elif g is not None and g.ndim > 0 and len(g) == len(v):
      gs = [*np.split(g, ends)]
    writes = []
    for (path, layer), w_, v_, g_ in zip(self.layers, *parts, gs):
      layout = Layout.of(layer)
      w_, v_ = layout.to_model(w_), layout.to_model(v_)
      g_ = None if g_ is None else layout.to_model(g_)
      problem = _problem_of(layer, w_, g_)
      if problem:
        source.problems.append(f'{join(source.module, leaf)}: {problem} {path or "the model"}')
      else:
        writes += _layer_writes(layer, w_, v_, g_)
    return writes

  def emit(self, style: str) -> dict[str, np.ndarray]:
    """The arrays by leaf, as PyTorch has them."""
    layers = [layer for _, layer in self.layers]
    if not any(isinstance(layer, WeightNormed) for layer in layers):
      kernels = [to_numpy(base.masked_kernel(layer)) for layer in layers]
      return {self.name: stack([Layout.of(i).to_torch(k) for i, k in zip(layers, kernels)])}
    pairs = [_g_and_v(layer, alone=len(layers) == 1) for layer in layers]
    g_leaf, v_leaf = self._forms()[style]
    return {g_leaf: stack([g for g, _ in pairs]), v_leaf: stack([v for _, v in pairs])}


def _layer_writes(
  layer: nnx.Module, w: np.ndarray, v: np.ndarray, g: np.ndarray | None
) -> list[Write]:
  """What to write for arrays in the kernel's layout; g and v as they are if the axes agree."""
  kernel = base.kernel_of(layer)
  if not isinstance(layer, WeightNormed):
    return [Write(kernel, w, lambda: assign(kernel, w))]
  if g is None or not _has_axes_of(layer, g):
    return [Write(kernel, w, lambda: layer.set_weight(on_device(kernel, w)))]
  scale = layer.scale
  # exp(c s) is never 0; a fully masked unit has no use for g.
  g = np.where(g > 0, g, 1) if layer.log_scale else g
  g = g.reshape(scale[...].shape)
  return [
    Write(kernel, v, lambda: assign(kernel, v)),
    Write(scale, g, lambda: layer.set_scale(on_device(scale, g))),
  ]


def _has_axes_of(layer: WeightNormed, g: np.ndarray) -> bool:
  """Whether g, in the kernel's layout, is over the axes of a weight-normalized layer's norm.

  Sizes decide: an axis of size 1 may be part of a norm or not.
  """
  return g.shape == _expanded_scale(layer).shape


def _expanded_scale(layer: WeightNormed) -> np.ndarray:
  """g of a layer, with axes of size 1 for those of the norm."""
  return np.expand_dims(
    to_numpy(layer.get_scale()), norm_axes(base.kernel_of(layer).ndim, base.unit_axes(layer))
  )


def _g_and_v(layer: nnx.Module, alone: bool) -> tuple[np.ndarray, np.ndarray]:
  """(g, v) of a layer, alone or stacked on others, in PyTorch's layout.

  If PyTorch has no such g: that of w for `dim=0`.
  """
  layout = Layout.of(layer)
  if isinstance(layer, WeightNormed):
    v = layout.to_torch(to_numpy(layer.masked_kernel()))
    g = layout.to_torch(_expanded_scale(layer))
    axes = [axis for axis, size in enumerate(g.shape) if size > 1]
    is_whole = all(g.shape[axis] == v.shape[axis] for axis in axes)
    if alone and is_whole and len(axes) <= 1:
      return _without_zero_units(g if base.unit_axes(layer) else g.reshape(()), v)
    if not alone and g.shape == (len(v), *[1] * (v.ndim - 1)):
      return _without_zero_units(g, v)
  v = layout.to_torch(to_numpy(base.weight(layer)))
  return _without_zero_units(_norm(v, (len(v), *[1] * (v.ndim - 1))).astype(v.dtype), v)


def _without_zero_units(g: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """PyTorch divides by ‖v‖ = 0, so a unit of zeros gets g = 0 and a v of ones."""
  is_zero = np.square(_norm(v, g.shape)) <= 1e-30  # as in `wn.unit_norm`
  return np.where(is_zero, 0, g).astype(g.dtype), np.where(is_zero, 1, v).astype(v.dtype)


def _problem_of(layer: nnx.Module, w: np.ndarray, g: np.ndarray | None) -> str:
  mask = getattr(layer, 'mask', None)
  if mask is not None and (hidden := np.count_nonzero(w[np.asarray(mask) == 0])):
    return f'{hidden} weights are not 0 where the mask is, in'
  if (
    isinstance(layer, WeightNormed)
    and layer.log_scale
    and g is not None
    and _has_axes_of(layer, g)
    and not ((g > 0) | _fully_masked(layer)).all()
  ):
    return 'the layer has log_scale, g = exp(c s), but g is not positive, in'
  return ''


def _fully_masked(layer: WeightNormed) -> np.ndarray:
  """For every unit whether its weights are all masked, shaped like `_expanded_scale`."""
  mask = getattr(layer, 'mask', None)
  mask = np.ones(base.kernel_of(layer).shape) if mask is None else np.asarray(mask)
  return np.all(mask == 0, norm_axes(mask.ndim, base.unit_axes(layer)), keepdims=True)


def _g_shape(shape: tuple[int, ...] | None, v_shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of a g if it suits v's, and otherwise the one it would usually have."""
  if shape == ():
    return ()
  if shape and len(shape) == len(v_shape) and all(i in (1, j) for i, j in zip(shape, v_shape)):
    return shape
  return v_shape[0], *[1] * (len(v_shape) - 1)


def _norm(v: np.ndarray, g_shape: tuple[int, ...]) -> np.ndarray:
  """‖v‖ over the axes where g has size 1, in float64."""
  axes = tuple(axis for axis in range(v.ndim) if g_shape == () or g_shape[axis] == 1)
  return np.sqrt(np.sum(np.square(v.astype(np.float64)), axes, keepdims=True)).reshape(g_shape)


def _weight(v: np.ndarray, g: np.ndarray) -> np.ndarray:
  norm = _norm(v, g.shape)
  w = g.astype(np.float64) / np.where(norm == 0, 1, norm) * v
  return w.astype(np.promote_types(v.dtype, np.float32))
