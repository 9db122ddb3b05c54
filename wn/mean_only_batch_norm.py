"""Mean-only batch normalisation (Salimans & Kingma 2016, §4)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer, PromoteDtypeFn


class MeanOnlyBatchNorm(nnx.Module):
  """t̃ = t − μ[t] + b: batch normalisation without the division (§4).

  μ[t] is the mean of the minibatch in training, and a running mean otherwise. The gradient with
  respect to t is the incoming gradient, centred over the minibatch. Put it after a layer without a
  bias, as in the paper: t = w·x, with w weight-normalised.

  Under `jax.jit` on a mesh the mean is that of the global batch; under `jax.pmap` or `shard_map`
  name the axis with `axis_name`.

  Args:
    num_features: size of the feature axis.
    use_running_average: if True, subtract the running mean; overridden in the call.
    axis: the feature axis of the input; the mean runs over all others.
    momentum: decay rate of the running mean.
    dtype: dtype of the result (default: that of the input and the parameters).
    param_dtype: dtype of the bias.
    use_bias: whether to add b.
    bias_init: initialiser of b.
    axis_name: name of the mapped axis over which to average the mean as well.
    axis_index_groups: groups of indices of that axis, as in `jax.lax.pmean`.
    promote_dtype: as in `nnx.BatchNorm`.
    rngs: random streams; `params` is used.
    bias_metadata: metadata of the bias parameter.
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
    """Centres x; in training also updates the running mean.

    Args:
      x: t, [..., num_features] for the default axis.
      use_running_average: overrides the constructor's choice.
      mask: boolean, broadcastable to x: the positions that count for the mean, at least one per
        feature. With `axis_name` the means of the devices count alike, as in `nnx.BatchNorm`.

    Returns:
      t̃, of the shape of x.

    Raises:
      ValueError: neither the constructor nor the call says whether to use the running mean.
    """
    if use_running_average is None:
      use_running_average = self.use_running_average
    if use_running_average is None:
      raise ValueError('use_running_average must be given to the constructor or to the call.')

    feature_axis = range(x.ndim)[self.axis]
    batch_axes = tuple(axis for axis in range(x.ndim) if axis != feature_axis)
    feature_shape = [-1 if axis == feature_axis else 1 for axis in range(x.ndim)]

    bias = None if self.bias is None else self.bias[...]
    out_dtype = dtypes.canonicalize_dtype(x, bias, dtype=self.dtype)
    if use_running_average:
      mean = self.mean[...]
    else:
      # At least float32: a sum over a minibatch in bfloat16 would lose most of its digits.
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
    """Used by `nnx.view`.

    Args:
      use_running_average: the new default of the call.
    """
    if use_running_average is not None:
      self.use_running_average = use_running_average
