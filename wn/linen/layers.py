"""Weight-normalized layers: `flax.linen` layers with w = (g/‖v‖) v (Eq. 2).

Each class extends its `nn` namesake, with the same fields, forward pass and names of parameters.
`kernel` (`embedding` of `Embed`) holds v, `scale` holds g and `bias` holds b. Initially g = ‖v‖, so
a new layer computes the same function as its namesake; a unit whose kernel is zero starts at g = 0
with a random v.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import meta, unfreeze
from jax.core import Tracer

from wn import scales
from wn.normalization import UnitAxis, norm_axes, unit_norm, weight_norm

WEIGHTS = ('kernel', 'embedding')
PLAIN = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose, nn.Embed)


class WeightNormed(nn.Module):
  """Base class of the weight-normalized layers: puts w where its namesake reads the kernel.

  Norms are computed in float32, after the mask. w has the dtype of the kernel if `dtype` is None or
  the same, and is float32 otherwise. `scale` has the kernel's dtype (float32 for 8-bit kernels),
  and its `nn.Partitioned` names reduced to the axes of the units.

  Example::

    class NormalizedCausalConv(wn.linen.WeightNormed, CausalConv):  # an nn.Conv
      pass

  Attributes:
    unit_axis: axis or axes of the kernel that index units, each with a g of its own. None: one g
      for the whole kernel. By default the axes of the output features, as in the paper.
    log_scale: if c > 0, `scale` holds s with g = exp(c s); True means c = 1. If 0, it holds g.
  """

  unit_axis: UnitAxis | Literal['output'] = 'output'
  log_scale: bool | float = False

  @nn.nowrap
  def param(self, name: str, init_fn: Callable[..., Any], *init_args, unbox=True, **kwargs) -> Any:
    """As in `nn.Module`, but w in place of the kernel, with `scale` as a parameter of its own.

    Raises:
      ValueError: `unit_axis` is not a set of axes of the kernel, `mask` holds other numbers than 0
        and 1, or `log_scale` is negative or not finite.
    """
    if name not in WEIGHTS:
      return super().param(name, init_fn, *init_args, unbox=unbox, **kwargs)
    mask = getattr(self, 'mask', None)
    _check_mask(mask)
    log_scale = scales.log_factor(self.log_scale)
    starts = []

    def start(*args, **kwargs):
      box = init_fn(*args, **kwargs)
      v = meta.unbox(box)
      name = f'a {type(self).__name__}'
      g, v = scales.start_at(v, unit_axes(self, v.ndim), log_scale, name, mask)
      starts.append(g)
      return meta.replace_boxed(box, v)

    # Where the kernel exists, flax only asks `init_fn` for its shape.
    is_new = not self.has_variable('params', name)
    box = super().param(name, start if is_new else init_fn, *init_args, unbox=False, **kwargs)
    v = meta.unbox(box)
    axes = unit_axes(self, v.ndim)

    def start_scale():
      g = starts[0] if is_new else unit_norm(masked(v, mask), unit_axis=axes)
      return new_scale(box, g, axes, log_scale)

    # Not `super().param`, which would use up the next key, and so start another bias.
    return weight(self, v, self.variable('params', 'scale', start_scale).value, mask)


class Dense(WeightNormed, nn.Dense):
  """Weight-normalized `nn.Dense`: y = x·w + b with w = (g/‖v‖) v per output feature (Eq. 1–2).

  Example::

    layer = wn.linen.Dense(10)  # was nn.Dense(10); kernel [in, 10], scale [10], bias [10]
  """


class DenseGeneral(WeightNormed, nn.DenseGeneral):
  """Weight-normalized `nn.DenseGeneral`: a unit's norm is over the input features.

  Example::

    query = wn.linen.DenseGeneral((8, 64))  # kernel [in, 8, 64], scale [8, 64]
  """


class Conv(WeightNormed, nn.Conv):
  """Weight-normalized `nn.Conv`; a unit's norm is over the window and the input features.

  Example::

    layer = wn.linen.Conv(96, (3, 3))  # kernel [3, 3, in, 96], scale [96]
  """


class ConvTranspose(WeightNormed, nn.ConvTranspose):
  """Weight-normalized `nn.ConvTranspose`; a unit's norm is over the window and the input features.

  The kernel is [*window, in, out], or [*window, out, in] with `transpose_kernel=True`.

  Example::

    layer = wn.linen.ConvTranspose(32, (4, 4), (2, 2))                # scale [32]
    layer = wn.linen.ConvTranspose(32, (4, 4), (2, 2), unit_axis=-2)  # scale [in], as in PyTorch
  """


class Embed(WeightNormed, nn.Embed):
  """Weight-normalized `nn.Embed`; every embedding has a norm of its own, also in `attend`.

  Example::

    layer = wn.linen.Embed(32_000, 512)  # embedding [32_000, 512], scale [32_000]
  """


def param(layer: nn.Module, name: str) -> Any:
  """A parameter of a bound layer as it is stored, without metadata."""
  return meta.unbox(layer.get_variable('params', name))


def masked(kernel: jax.Array, mask: Any) -> jax.Array:
  """A kernel, or a stack of kernels, with a mask or None applied."""
  if mask is None:
    return kernel
  return kernel * jnp.broadcast_to(jnp.asarray(mask).astype(kernel.dtype), kernel.shape)


def weight(
  layer: WeightNormed, v: Any, scale: Any, mask: Any, own_ndim: int | None = None
) -> jax.Array:
  """w = (g/‖v‖) v (Eq. 2), in float32, or in the dtype of v if the layer's is the same or None.

  Args:
    layer: the layer, for its axes.
    v: its kernel, or a stack of kernels.
    scale: its `scale`, or a stack of them.
    mask: its mask, or None.
    own_ndim: number of axes of one kernel; by default that of v.
  """
  v = jnp.asarray(v)
  g = scales.read_scale(jnp.asarray(scale), scales.log_factor(layer.log_scale))
  w = weight_norm(masked(v, mask), g, unit_axis=unit_axes(layer, v.ndim, own_ndim))
  return w.astype(v.dtype) if layer.dtype is None or jnp.dtype(layer.dtype) == v.dtype else w


def new_scale(kernel: Any, g: jax.Array, axes: tuple[int, ...], log_scale: float) -> Any:
  """What `scale` holds for g, with the names of the kernel's axes if it is `nn.Partitioned`."""
  v = meta.unbox(kernel)
  dtype = v.real.dtype if jnp.iscomplexobj(v) else v.dtype
  # 8 bits have 2 to 3 digits of a norm.
  dtype = jnp.float32 if dtype.itemsize == 1 else dtype
  scale = scales.stored_scale(g, log_scale).astype(dtype)
  if not isinstance(kernel, nn.Partitioned):
    return scale
  return kernel.replace(value=scale, names=tuple(kernel.names[axis] for axis in axes))


def unit_axes(layer: nn.Module, ndim: int, own_ndim: int | None = None) -> tuple[int, ...]:
  """The axes of a kernel of `ndim` axes that index units, as numbers from 0 up.

  In a stack of kernels, as of `nn.scan`, the leading axes count as well.
  """
  own_ndim = ndim if own_ndim is None else own_ndim
  unit_axis = layer.unit_axis if isinstance(layer, WeightNormed) else 'output'
  if unit_axis == 'output':
    axes = feature_axes(layer, own_ndim)
  else:
    other_axes = norm_axes(own_ndim, unit_axis)
    axes = tuple(axis for axis in range(own_ndim) if axis not in other_axes)
  return *range(ndim - own_ndim), *(ndim - own_ndim + axis for axis in axes)


def feature_axes(layer: nn.Module, ndim: int) -> tuple[int, ...]:
  """The axes of a kernel of `ndim` axes that index output features, or embeddings."""
  match layer:
    case nn.Embed():
      return (0,)
    case nn.ConvTranspose() if layer.transpose_kernel:
      return (ndim - 2,)
  return tuple(axis % ndim for axis in output_axes(layer))


def output_axes(layer: nn.Module) -> tuple[int, ...]:
  """The axes of the output that index features; negative if counted from the last."""
  if isinstance(layer, nn.DenseGeneral):
    return *range(np.size(layer.batch_dims)), *range(-np.size(layer.features), 0)
  return (-1,)


def params_of(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
  """The parameters among a model's variables, by path."""
  if 'params' not in variables:
    raise ValueError("the variables have no 'params'; give what `model.init` returns.")
  return traverse_util.flatten_dict(unfreeze(variables['params']))


def name_of(path: tuple[str, ...], module: nn.Module) -> str:
  """The name of a layer in messages: its path, or its class if it is the model."""
  return '.'.join(path) or type(module).__name__


def _check_mask(mask: Any) -> None:
  if mask is None or isinstance(mask, Tracer):
    return
  if not np.isin(np.asarray(mask), (0, 1)).all():
    raise ValueError('mask must hold only 0 (weight removed) and 1 (weight kept).')
