"""The network of Mnih et al. (2015): three convolutions, two dense layers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

import wn
from experiments.training.precision import promote_all_but_bias

SIDE = 84  # pixels of a frame
STACK = 4  # frames in an observation


class QNetwork(nnx.Module):
  """Action values Q(s, ·), every layer in the same parameterisation.

    [8×8, F₁, stride 4] → [4×4, F₂, stride 2] → [3×3, F₃] → dense → dense

  without padding, with ReLU between the layers. Weights and biases of a layer with n inputs are
  drawn from U(−1/√n, 1/√n), as in Mnih et al.'s code, and g = ‖v‖: with the same key both
  parameterisations start as the same function (ours: the paper does not say how it began).

  Args:
    num_actions: number of action values.
    param: 'plain' or 'wn'.
    features: (F₁, F₂, F₃), (32, 64, 64) in the paper.
    hidden: units of the dense layer, 512 in the paper.
    dtype: of the products in all layers but the last; all else has the dtype of the parameters.
    rngs: random streams; `params` is used.

  Raises:
    KeyError: unknown `param`.
  """

  def __init__(
    self,
    num_actions: int,
    *,
    param: str,
    features: Sequence[int],
    hidden: int,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    library = {'plain': nnx, 'wn': wn}[param]

    def conv(in_features: int, out_features: int, size: int, stride: int) -> nnx.Conv:
      return library.Conv(
        in_features, out_features, (size, size), strides=stride, padding='VALID',
        dtype=dtype, promote_dtype=promote_all_but_bias,
        **_uniform(size * size * in_features), rngs=rngs,
      )  # fmt: skip

    def linear(in_features: int, out_features: int, dtype: Dtype | None) -> nnx.Linear:
      return library.Linear(
        in_features, out_features, dtype=dtype, promote_dtype=promote_all_but_bias,
        **_uniform(in_features), rngs=rngs,
      )  # fmt: skip

    self.conv1 = conv(STACK, features[0], 8, 4)
    self.conv2 = conv(features[0], features[1], 4, 2)
    self.conv3 = conv(features[1], features[2], 3, 1)
    self.dense = linear(7 * 7 * features[2], hidden, dtype)
    self.out = linear(hidden, num_actions, None)

  def __call__(self, observations: jax.Array) -> jax.Array:
    """Maps uint8 observations [B, stack, 84, 84] to action values [B, num_actions]."""
    x = jnp.moveaxis(observations, 1, -1).astype(jnp.float32) / 255
    for layer in (self.conv1, self.conv2, self.conv3):
      x = nnx.relu(layer(x))
    x = x.reshape(x.shape[0], -1)
    return self.out(nnx.relu(self.dense(x)))


def _uniform(fan_in: int) -> dict[str, Any]:
  """Initialisers of a layer with `fan_in` inputs a unit."""
  bound = 1 / math.sqrt(fan_in)

  def initializer(key: jax.Array, shape: Sequence[int], dtype: Any, **_: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return {'kernel_init': initializer, 'bias_init': initializer}
