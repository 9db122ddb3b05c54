"""What all weight-normalized layers share: where v and g are, and how g is stored."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from wn import scales
from wn.axes import Layer, check_stack, default_unit_axis, own_ndim
from wn.normalization import UnitAxis, norm_axes, weight_norm

M = TypeVar('M', bound=nnx.Pytree)


class WeightNormed:
  """Base class of the weight-normalized layers.

  Example::

    if isinstance(layer, wn.WeightNormed):
      w, g = layer.normalized_kernel(), layer.get_scale()

  Attributes:
    kernel: v, shaped as in the `nnx` layer (`wn.Embed`: `embedding`). The weight of the layer, w,
      is `normalized_kernel()`.
    scale: g, shaped like v without the axes of the norm; if `log_scale` is c > 0, s with
      g = exp(c s).
    mask: 0/1 array of the kernel's shape, applied to v before the norm, or None.
    unit_axis: axes of v that index units, counted from the last; () if one g scales the kernel.
    log_scale: c, or 0 if `scale` holds g.
  """

  __slots__ = ()  # `wn.convert` changes a layer's class, which needs the memory layout of nnx's

  scale: nnx.Variable[jax.Array]
  unit_axis: tuple[int, ...]
  log_scale: float
  dtype: Any

  def masked_kernel(self) -> jax.Array:
    """v, with the mask applied."""
    return masked_kernel(self)

  def normalized_kernel(self) -> jax.Array:
    """w = (g/‖v‖) v, in float32, or in the kernel's dtype if the layer's is the same or None."""
    w = weight_norm(self.masked_kernel(), self.get_scale(), unit_axis=unit_axes(self))
    dtype = kernel_of(self)[...].dtype
    # With dtype=None nnx computes in the dtype that inputs and parameters promote to. `nnx.Embed`
    # has that of its embeddings then.
    return w.astype(dtype) if self.dtype is None or jnp.dtype(self.dtype) == dtype else w

  def get_scale(self) -> jax.Array:
    """g; exp(c s) is computed in float32."""
    return scales.read_scale(self.scale, self.log_scale)

  def set_scale(self, g: jax.Array) -> None:
    """Stores g, or log(g) / c if `log_scale` is c > 0.

    Raises:
      ValueError: `g` does not have the shape of `scale`, or is not positive with `log_scale`. In
        `jax.jit` values are not known: there such a g is stored as NaN, or −∞ for 0.
    """
    g = jnp.asarray(g)
    if g.shape != self.scale[...].shape:
      raise ValueError(f'g must have shape {self.scale[...].shape}; got {g.shape}.')
    assign(self.scale, scales.stored_scale(g, self.log_scale))

  def set_weight(self, w: jax.Array) -> None:
    """Sets v = w and g = ‖w‖, so that the layer's weight is w (a unit of zeros: g = 0).

    Assigning to `kernel` instead changes only the direction of the weight vectors.

    Raises:
      ValueError: `w` does not have the kernel's shape.
    """
    w = jnp.asarray(w)
    kernel = kernel_of(self)
    if w.shape != kernel[...].shape:
      raise ValueError(f'w must have the shape of the kernel, {kernel[...].shape}; got {w.shape}.')
    assign(kernel, w)
    assign(self.scale, scales.stored_scale(_start(self, kernel, self.log_scale), self.log_scale))

  def _create_scale(
    self,
    unit_axis: UnitAxis | Literal['output'],
    log_scale: bool | float,
    metadata: Mapping[str, Any],
  ) -> None:
    """Adds `scale` with g = ‖v‖, which has the kernel's metadata, and the attributes above."""
    check_mask(self)
    kernel = kernel_of(self)
    ndim = own_ndim(self)
    unit_axis = default_unit_axis(self) if unit_axis == 'output' else unit_axis
    other_axes = norm_axes(ndim, unit_axis)
    self.unit_axis = tuple(axis - ndim for axis in range(ndim) if axis not in other_axes)
    self.log_scale = scales.log_factor(log_scale)
    g = _start(self, kernel, self.log_scale)
    self.scale = scales.new_scale(kernel, g, unit_axes(self), self.log_scale, metadata)


def _start(layer: Layer, kernel: nnx.Variable, log_scale: float) -> jax.Array:
  """g = ‖v‖ for a layer that is to compute what it does without the norm; may change zero units."""
  mask = getattr(layer, 'mask', None)
  name = f'a {type(layer).__name__}'
  old = kernel[...]
  g, v = scales.start_at(old, unit_axes(layer), log_scale, name, mask)
  if v is not old:
    assign(kernel, v)
  return g


def assign(variable: nnx.Variable, value: jax.Array) -> None:
  """Sets a variable, keeping its dtype and, on a mesh of explicit axes, its sharding."""
  old = variable[...]
  value = value.astype(old.dtype)
  sharding = jax.typeof(old).sharding
  if sharding.mesh.are_all_axes_explicit and sharding != jax.typeof(value).sharding:
    value = jax.sharding.reshard(value, sharding)
  variable[...] = value


def replace(module: M, **attributes: Any) -> M:
  """A shallow copy of a module with some attributes replaced; the module itself is not written.

  Other attributes, variables and submodules are shared with the module.

  Example::

    # Runs a layer on another weight; wn.replace(conv, kernel=w)(x) would normalize w.
    nnx.Conv.__call__(wn.replace(conv, kernel=w), x)

  Args:
    module: any module.
    **attributes: new values; plain arrays will do where the module reads `self.kernel[...]`.

  Raises:
    AttributeError: the module has no such attribute.
  """
  for name in attributes:
    if not hasattr(module, name):
      raise AttributeError(f'{type(module).__name__} has no attribute {name!r} to replace.')
  view = object.__new__(type(module))
  vars(view).update(vars(module), **attributes)
  return view


def map_children(f: Callable[[Any], Any], node: Any) -> Any:
  """A list, tuple, dict or other container with `f` of what it holds; itself if nothing changes."""
  if type(node) is dict:  # flattening would sort it
    by_key = {key: f(child) for key, child in node.items()}
    return by_key if any(by_key[key] is not node[key] for key in node) else node
  children, treedef = jax.tree.flatten(node, is_leaf=lambda child: child is not node)
  new = [f(child) for child in children]
  changed = any(a is not b for a, b in zip(children, new))
  return treedef.unflatten(new) if changed else node


def weight(layer: Layer) -> jax.Array:
  """The weight w of a layer, weight-normalized or plain, in the shape of its kernel.

  Use it where a model reads a layer's weight itself, as with tied weights: `layer.kernel` is v in a
  weight-normalized layer. It has the kernel's dtype; w of a weight-normalized layer with another
  `dtype` is float32.

  Example::

    logits = h @ wn.weight(self.encoder).T

  Args:
    layer: `Linear`, `Conv`, `ConvTranspose`, `LinearGeneral`, `Einsum` or `Embed`, of `wn` or
      `nnx`. (Of a `wn.WeightNorm` use `normalized_kernel(name)`.)

  Raises:
    TypeError: it is another object, or its parameters are not arrays.
  """
  own_ndim(layer)
  if is_abstract(kernel_of(layer)):
    raise TypeError(f'the kernel of a {type(layer).__name__} is a shape without values.')
  if isinstance(layer, WeightNormed):
    return layer.normalized_kernel()
  return masked_kernel(layer)


def is_normalized(layer: Layer) -> bool:
  """Whether a layer is weight-normalized."""
  return isinstance(layer, WeightNormed)


def kernel_name(layer: Layer) -> str:
  """The attribute that holds the weights of an `nnx` or `wn` layer."""
  return 'embedding' if isinstance(layer, nnx.Embed) else 'kernel'


def kernel_of(layer: Layer) -> nnx.Variable:
  """The variable that holds the weights of a plain layer, or v."""
  return getattr(layer, kernel_name(layer))


def is_computed(variable: nnx.Variable) -> bool:
  """Whether a variable may read as another value than it stores: by hooks, or by its type."""
  metadata = variable.get_metadata()
  return any(metadata.get(hook) for hook in ('on_get_value', 'on_set_value')) or any(
    getattr(variable.type, name) is not getattr(nnx.Variable, name)
    for name in ('get_value', 'set_value', '__getitem__', '__setitem__')
  )


def masked_kernel(layer: Layer) -> jax.Array:
  """The kernel of an `nnx` or `wn` layer, with its mask applied."""
  kernel = kernel_of(layer)[...]
  mask = getattr(layer, 'mask', None)
  return kernel if mask is None else kernel * jnp.asarray(mask).astype(kernel.dtype)


def unit_axes(layer: Layer) -> tuple[int, ...]:
  """The axes of a layer's kernel that index units, as numbers from 0 up.

  In a stack of layers, made by `nnx.vmap` or `nnx.scan` over a constructor, leading axes index
  layers, and every layer's units are units of their own.

  Example::

    wn.unit_norm(layer.kernel[...], unit_axis=wn.unit_axes(layer))  # ‖v‖ of every unit

  Args:
    layer: `Linear`, `Conv`, `ConvTranspose`, `LinearGeneral`, `Einsum` or `Embed`, of `wn` or
      `nnx`.

  Raises:
    TypeError: it is another object.
    ValueError: layers are stacked along another axis than the first, and the sizes show it.
  """
  own = own_ndim(layer)
  axes = layer.unit_axis if isinstance(layer, WeightNormed) else default_unit_axis(layer)
  shape = kernel_of(layer)[...].shape
  check_stack(layer, shape)
  return *range(len(shape) - own), *(len(shape) + axis for axis in axes)


def is_abstract(variable: nnx.Variable) -> bool:
  """Whether a variable is a shape without a value, as of `nnx.eval_shape`."""
  is_variable = isinstance(variable, nnx.Variable)  # in a view of `replace` it may be an array
  return is_variable and isinstance(variable.get_raw_value(), jax.ShapeDtypeStruct)


def check_values(function: str, model: nnx.Module) -> None:
  """Raises TypeError if variables of the model are abstract.

  Args:
    function: the name of the function that needs the values.
    model: any model.
  """
  for path, node in nnx.iter_graph(model):
    if isinstance(node, nnx.Variable) and is_abstract(node):
      raise TypeError(
        f'{function}: {".".join(map(str, path))} is a shape without values. Create the model '
        'without nnx.eval_shape.'
      )


def check_mask(layer: Layer) -> None:
  """Raises ValueError if the layer's mask is not a 0/1 array of the kernel's shape."""
  mask = getattr(layer, 'mask', None)
  if mask is None:
    return
  shape = kernel_of(layer)[...].shape
  if np.shape(mask) != shape:
    raise ValueError(f'mask must have the shape of the kernel, {shape}; got {np.shape(mask)}.')
  if not isinstance(mask, Tracer) and not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('mask must hold only 0 (weight removed) and 1 (weight kept).')
