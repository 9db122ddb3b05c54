"""The network of Mnih et al. (2015): three convolutions and two dense layers."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from experiments.training.layers import Layers

SIDE = 84  # pixels of a frame
STACK = 4  # frames in an observation


class QNetwork(nnx.Module):
  """Action values Q(s, ·), every layer in the same parameterization.

    [8×8, F₁, stride 4] → [4×4, F₂, stride 2] → [3×3, F₃] → dense → dense

  without padding, with ReLU between the layers. With the same key, both parameterizations have the
  same v and, after data-dependent initialization, compute the same function.

  Args:
    parameterization: one of `configs.variants.PARAMETERIZATIONS`.
    features: (F₁, F₂, F₃), (32, 64, 64) in the paper.
    hidden: units of the dense layer, 512 in the paper.
    init_std: initial standard deviation of v and of plain weights. Biases are 0.
    dtype: computation dtype of all layers but the last, which uses that of the parameters.
    rngs: `nnx.Rngs` with a `params` stream.

  Raises:
    KeyError: unknown `parameterization`.
  """

  def __init__(
    self,
    num_actions: int,
    *,
    parameterization: str,
    features: Sequence[int],
    hidden: int,
    init_std: float,
    dtype: Dtype = 'float32',
    rngs: nnx.Rngs,
  ):
    layers = Layers(parameterization, init_std=init_std, dtype=dtype, rngs=rngs)
    conv = functools.partial(layers.conv, padding='VALID')
    self.conv1 = conv(STACK, features[0], (8, 8), strides=4)
    self.conv2 = conv(features[0], features[1], (4, 4), strides=2)
    self.conv3 = conv(features[1], features[2], (3, 3), strides=1)
    self.dense = layers.linear(7 * 7 * features[2], hidden)
    self.out = layers.linear(hidden, num_actions, dtype=None)

  def __call__(self, observations: jax.Array) -> jax.Array:
    """Maps uint8 observations [B, stack, 84, 84] to action values [B, num_actions]."""
    x = jnp.moveaxis(observations, 1, -1).astype(jnp.float32) / 255
    for layer in (self.conv1, self.conv2, self.conv3):
      x = nnx.relu(layer(x))
    x = x.reshape(x.shape[0], -1)
    return self.out(nnx.relu(self.dense(x)))
