"""Mean-only batch normalization (Salimans & Kingma 2016, §4)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer, PromoteDtypeFn


class MeanOnlyBatchNorm(nnx.Module):
  """t̃ = t − μ[t] + b: batch normalization without the division (§4).

  μ[t] is the minibatch mean in training, and a running mean otherwise. The gradient with respect to
  t is the incoming gradient, centered over the minibatch. As in the paper, put it after a layer
  without a bias: t = w·x, with w weight-normalized.

  Example::

    layer = wn.Linear(64, 128, use_bias=False, rngs=rngs)
    norm = wn.MeanOnlyBatchNorm(128, rngs=rngs)
    y = norm(layer(x), use_running_average=not train)

  Under `jax.jit` on a mesh the mean is that of the global batch. Under `jax.pmap` or `shard_map`,
  pass `axis_name`. Arguments without a line here are as for `nnx.BatchNorm`.

  Args:
    num_features: size of the feature axis.
    use_running_average: if True, subtract the running mean; the call can override it.
    axis: feature axis; the mean is over all others.
    momentum: decay rate of the running mean.
    dtype: dtype of the result; defaults to that of the input and the bias.
    axis_name: mapped axis over which to average the mean.
    axis_index_groups: as for `jax.lax.pmean`.
    rngs: uses the `params` stream.
  """

  def __init__(
    self,
    num_features: int,
    *,
    use_running_average: bool | None = False,
    axis: int = -1,
    momentum: float = 0.9,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
    use_bias: bool = True,
    bias_init: Initializer = nnx.initializers.zeros,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    promote_dtype: PromoteDtypeFn = dtypes.promote_dtype,
    rngs: nnx.Rngs,
    bias_metadata: Mapping[str, Any] = MappingProxyType({}),
  ):
    self.mean = nnx.BatchStat(jnp.zeros((num_features,), jnp.float32))
    self.bias: nnx.Param[jax.Array] | None
    if use_bias:
      bias = bias_init(rngs.params(), (num_features,), param_dtype)
      self.bias = nnx.Param(bias, **bias_metadata)
    else:
      self.bias = nnx.data(None)
    self.num_features = num_features
    self.use_running_average = use_running_average
    self.axis = axis
    self.momentum = momentum
    self.dtype = dtype
    self.param_dtype = param_dtype
    self.use_bias = use_bias
    self.axis_name = axis_name
    self.axis_index_groups = axis_index_groups
    self.promote_dtype = promote_dtype

  def __call__(
    self,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Centers x, and updates the running mean in training.

    Args:
      x: t, [..., num_features] for the default axis.
      use_running_average: overrides the constructor's value.
      mask: boolean, broadcastable to x; True for the positions averaged, at least one per feature.
        With `axis_name` every device has equal weight, as in `nnx.BatchNorm`.

    Returns:
      t̃, shaped like x.

    Raises:
      ValueError: neither the constructor nor the call sets `use_running_average`.
    """
    if use_running_average is None:
      use_running_average = self.use_running_average
    if use_running_average is None:
      raise ValueError('pass use_running_average to the constructor or to the call.')

    feature_axis = range(x.ndim)[self.axis]
    batch_axes = tuple(axis for axis in range(x.ndim) if axis != feature_axis)
    feature_shape = [-1 if axis == feature_axis else 1 for axis in range(x.ndim)]

    bias = None if self.bias is None else self.bias[...]
    out_dtype = dtypes.canonicalize_dtype(x, bias, dtype=self.dtype)
    if use_running_average:
      mean = self.mean[...]
    else:
      # At least float32: a sum over a minibatch in bfloat16 loses most of its digits.
      mean = jnp.mean(x, batch_axes, dtype=jnp.promote_types(x.dtype, jnp.float32), where=mask)
      if self.axis_name is not None:
        mean = jax.lax.pmean(mean, self.axis_name, axis_index_groups=self.axis_index_groups)
      self.mean[...] = jax.lax.stop_gradient(
        self.momentum * self.mean[...] + (1 - self.momentum) * mean.astype(self.mean[...].dtype)
      )
    x, bias = self.promote_dtype((x, bias), dtype=self.dtype)
    y = x - mean.reshape(feature_shape)
    if bias is not None:
      y += bias.reshape(feature_shape)
    return y.astype(out_dtype)

  def set_view(self, use_running_average: bool | None = None) -> None:
    """Sets the default of `use_running_average`; called by `nnx.view`."""
    if use_running_average is not None:
      self.use_running_average = use_running_average
