"""A dense layer with a large kernel and a small batch: (g/‖v‖) (x·v) in place of x·((g/‖v‖) v).

It spares writing and reading w, and as much in the gradient; docs/PERFORMANCE.md has the gain.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax.nnx.nn import dtypes

from wn.normalization import unit_norm

if TYPE_CHECKING:  # it imports this file
  from wn.layers import Linear

LARGE = 2**20  # weights, 4 MB in float32


def scales_outputs(layer: 'Linear', inputs: jax.Array) -> bool:
  """Whether to scale outputs: for small batches and kernels too large for a cache.

  Only in float32 or wider, where both round alike.
  """
  v = layer.kernel[...]
  dtype = jnp.result_type(inputs, v) if layer.dtype is None else jnp.dtype(layer.dtype)
  return (
    layer.unit_axis == (-1,)
    and v.ndim == 2
    and v.size >= LARGE
    and inputs.size < v.shape[0] ** 2
    and {dtype, v.dtype} <= {jnp.dtype('float32'), jnp.dtype('float64')}
    and layer.preferred_element_type is None
    and layer.dot_general is jax.lax.dot_general
    and layer.promote_dtype is dtypes.promote_dtype
    and not jax.typeof(v).sharding.mesh.are_all_axes_explicit
  )


def scaled_dot_general(layer: 'Linear') -> Callable[..., jax.Array]:
  """The `dot_general` of a layer with kernel v, whose result is that with kernel w."""

  def dot_general(*args: Any, **kwargs: Any) -> jax.Array:
    y = layer.dot_general(*args, **kwargs)
    scale = (layer.get_scale() / unit_norm(layer.masked_kernel())).astype(y.dtype)
    return y * scale.reshape((1,) * (y.ndim - 1) + (-1,))

  return dot_general
