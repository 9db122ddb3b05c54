"""The network of §5.1, ConvPool-CNN-C, in each parameterization."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax import lax

import wn
from experiments.cifar import released
from experiments.training.layers import Layers, promote_all_but_bias


class ConvNet(nnx.Module):
  """Nine convolutions and a dense layer, all in the same parameterization.

    noise → 3 × [3×3, F] → pool → dropout → 3 × [3×3, 2F] → pool → dropout → [3×3, 2F, VALID]
    → 2 × [1×1, 2F] → average over positions → dense

  Args:
    image_shape: (H, W, C), with H and W at least 12.
    num_classes: number of logits.
    parameterization: one of `configs.variants.CIFAR_PARAMETERIZATIONS`.
    width: F, 96 in the paper.
    block_depth: convolutions in each of the first two blocks, 3 in the paper.
    noise_std: standard deviation of the Gaussian noise added to training inputs.
    dropout_rate: dropout probability.
    init_std: standard deviation of v, and of plain weights; `plain_released` has Glorot's.
    bn_momentum: decay rate of running means and variances.
    bn_eps: added to the variance in batch normalization.
    dtype: of the hidden units. Parameters, norms, statistics and logits are always float32.
    conv_general_dilated: `jax.lax.conv_general_dilated` or an equivalent.
    rngs: random streams; uses `params`.

  Raises:
    KeyError: unknown parameterization.
  """

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    parameterization: str,
    width: int,
    block_depth: int = 3,
    noise_std: float,
    dropout_rate: float,
    init_std: float,
    bn_momentum: float,
    bn_eps: float,
    dtype: Dtype = 'float32',
    conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
    rngs: nnx.Rngs,
  ):
    dtype = jnp.dtype(dtype)
    self.parameterization = parameterization

    unit = functools.partial(
      Unit,
      parameterization=parameterization,
      init_std=init_std,
      bn_momentum=bn_momentum,
      bn_eps=bn_eps,
      rngs=rngs,
    )
    conv = functools.partial(unit, 'conv', dtype=dtype, conv_general_dilated=conv_general_dilated)

    def block(in_features: int, features: int) -> nnx.List:
      first = conv(in_features, features, (3, 3))
      return nnx.List([first] + [conv(features, features, (3, 3)) for _ in range(block_depth - 1)])

    channels = image_shape[-1]
    self.block1 = block(channels, width)
    self.block2 = block(width, 2 * width)
    self.block3 = nnx.List(
      [conv(2 * width, 2 * width, (3, 3), padding='VALID')]
      + [conv(2 * width, 2 * width, (1, 1)) for _ in range(2)]
    )
    self.sum_dtype = jnp.promote_types(dtype, jnp.float32)
    self.head = unit('linear', 2 * width, num_classes, dtype=self.sum_dtype)
    self.dropout = nnx.Dropout(dropout_rate)
    self.noise_std = noise_std

  def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
    """Logits [B, num_classes] of images [B, H, W, C].

    Args:
      x: preprocessed images.
      train: whether to add noise, apply dropout and normalize with minibatch statistics.
      rngs: random streams `noise` and `dropout`; only for training.
    """
    if train:
      x += self.noise_std * jax.random.normal(rngs.noise(), x.shape, x.dtype)
    for block in (self.block1, self.block2):
      for unit in block:
        x = leaky_relu(unit(x, train=train))
      x = self.dropout(max_pool(x), deterministic=not train, rngs=rngs)
    for unit in self.block3:
      x = leaky_relu(unit(x, train=train))
    return self.head(jnp.mean(x, axis=(1, 2), dtype=self.sum_dtype), train=train)


class Unit(nnx.Module):
  """A convolution or dense layer, with its normalization if any."""

  def __init__(
    self,
    kind: str,
    *args,
    parameterization: str,
    init_std: float,
    bn_momentum: float,
    bn_eps: float,
    dtype: Dtype,
    rngs: nnx.Rngs,
    **kwargs,
  ):
    arguments = {'dtype': dtype, **kwargs}
    # With a norm, the bias is added by the norm, after the mean is subtracted.
    arguments['use_bias'] = parameterization in ('plain', 'wn', 'plain_released')
    if parameterization == 'plain_released':
      make = {'linear': released.Linear, 'conv': released.Conv}[kind]
      arguments['kernel_init'] = nnx.initializers.glorot_uniform()
      self.linear = make(*args, promote_dtype=promote_all_but_bias, rngs=rngs, **arguments)
    else:
      layers = Layers(
        'wn' if parameterization in ('wn', 'wn_mean_bn') else 'plain', init_std=init_std, rngs=rngs
      )
      self.linear = getattr(layers, kind)(*args, **arguments)
    self.dtype = dtype
    features = self.linear.out_features
    if parameterization == 'bn':
      self.norm = BatchNorm(
        features,
        momentum=bn_momentum,
        epsilon=bn_eps,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
      )
    elif parameterization in ('mean_bn', 'wn_mean_bn'):
      self.norm = wn.MeanOnlyBatchNorm(features, momentum=bn_momentum, dtype=dtype, rngs=rngs)
    else:
      self.norm = None

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """The pre-activation."""
    t = self.linear(x).astype(self.dtype)
    return t if self.norm is None else self.norm(t, use_running_average=not train)


class BatchNorm(nnx.BatchNorm):
  """`nnx.BatchNorm` with the factor n/(n−1) in the running variance, as in the authors' code.

  n is the number of images in the minibatch, even for convolutions.
  """

  def __call__(self, x: jax.Array, use_running_average: bool | None = None, **kwargs) -> jax.Array:
    """Same as `nnx.BatchNorm`."""
    old_var = self.momentum * self.var[...]
    y = super().__call__(x, use_running_average, **kwargs)
    if not use_running_average:
      n = x.shape[0]
      self.var[...] = old_var + (self.var[...] - old_var) * (n / (n - 1))
    return y


def leaky_relu(x: jax.Array) -> jax.Array:
  """max(x, 0.1 x)."""
  return nnx.leaky_relu(x, negative_slope=0.1)


def max_pool(x: jax.Array) -> jax.Array:
  """2×2 max pooling of [B, H, W, C]; an odd last row or column is dropped.

  Takes the maximum of four strided slices: the `reduce_window` of `nnx.max_pool` is slow on a CPU.
  """
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  corners = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
  return jnp.maximum(jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:]))
