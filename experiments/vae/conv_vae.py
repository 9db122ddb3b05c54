"""The convolutional VAE of §5.2 for binary images, with a diagonal or autoregressive posterior."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.training import distributions
from experiments.training.layers import Layers
from experiments.vae.bound import Bound
from experiments.vae.iaf import Flow

# Mean, log standard deviation and context of q(z|x).
Posterior = tuple[jax.Array, jax.Array, jax.Array]


class ConvVAE(nnx.Module):
  """p(x|z): independent bits; p(z): standard normal; q(z|x): diagonal Gaussian, or IAF on one.

    conv F₁ → blocks → [stride 2] F₂ → blocks → [stride 2] F₃ → blocks → dense → q(z|x)

  and the mirror image from z to logits, with nearest-neighbor upsampling.

  Args:
    image_shape: (H, W, C), H and W divisible by 4.
    layers: creates the layers.
    is_iaf: whether the posterior has inverse autoregressive flow.
    maps: (F₁, F₂, F₃), feature maps at full, half and quarter resolution.
    blocks: residual blocks per resolution.
    hidden: units of the dense layer.
    latents: size of z.
    flow_steps: steps of the flow.
    flow_width: units per hidden layer of a step.
    flow_depth: hidden layers per step.
  """

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    *,
    layers: Layers,
    is_iaf: bool,
    maps: tuple[int, int, int],
    blocks: int,
    hidden: int,
    latents: int,
    flow_steps: int,
    flow_width: int,
    flow_depth: int,
  ):
    height, width, channels = image_shape
    small = (height // 4, width // 4, maps[-1])
    size = small[0] * small[1] * small[2]
    context = hidden if is_iaf else 0
    self.small = small
    self.latents = latents
    self.encoder_in = layers.conv(channels, maps[0], (3, 3))
    self.encoder_blocks = nnx.List([stage(features, blocks, layers) for features in maps])
    self.encoder_down = nnx.List(
      [layers.conv(a, b, (3, 3), strides=2) for a, b in itertools.pairwise(maps)]
    )
    self.encoder_dense = layers.linear(size, hidden)
    self.posterior = layers.linear(hidden, 2 * latents + context, dtype=None)
    self.flow = (
      Flow(flow_steps, latents, context, width=flow_width, depth=flow_depth, layers=layers)
      if is_iaf
      else None
    )
    self.decoder_dense = nnx.List([layers.linear(latents, hidden), layers.linear(hidden, size)])
    self.decoder_blocks = nnx.List([stage(features, blocks, layers) for features in maps[::-1]])
    self.decoder_up = nnx.List(
      [layers.conv(a, b, (3, 3)) for a, b in itertools.pairwise(maps[::-1])]
    )
    self.decoder_out = layers.conv(maps[0], channels, (3, 3), dtype=None)

  def __call__(self, x: jax.Array, key: jax.Array) -> Bound:
    """The bound for binary images x [B, H, W, C], with one sample z each."""
    return self.bound(x, self.encode(x), key)

  def bound(self, x: jax.Array, posterior: Posterior, key: jax.Array) -> Bound:
    """As `__call__`, given what `encode` returns for x."""
    mean, log_std, context = posterior
    noise = jax.random.normal(key, mean.shape)
    z = mean + jnp.exp(log_std) * noise
    log_q = jnp.sum(distributions.gaussian_log_density(z, mean, log_std), axis=-1)
    if self.flow is not None:
      z, change = self.flow(z, context)
      log_q += change
    log_p = jnp.sum(distributions.standard_normal_log_density(z), axis=-1)
    log_likelihood = jnp.sum(
      distributions.bernoulli_log_likelihood(x, self.decode(z)), axis=(1, 2, 3)
    )
    if self.flow is None:  # the closed form
      kl = jnp.sum(distributions.gaussian_kl(mean, log_std), axis=-1)
    else:  # the estimate from one sample, which may be negative
      kl = log_q - log_p
    return Bound(log_likelihood, kl[:, None, None], log_likelihood + log_p - log_q)

  def encode(self, x: jax.Array) -> Posterior:
    """Mean, log standard deviation [B, latents] and context [B, hidden or 0] of images."""
    h = self.encoder_in(x - 0.5)
    for i, blocks in enumerate(self.encoder_blocks):
      if i:
        h = self.encoder_down[i - 1](h)
      for block in blocks:
        h = block(h)
    h = nnx.elu(h).reshape(h.shape[0], -1)
    h = self.posterior(nnx.elu(self.encoder_dense(h)))
    return tuple(jnp.split(h, [self.latents, 2 * self.latents], axis=-1))

  def decode(self, z: jax.Array) -> jax.Array:
    """Logits [B, H, W, C] of the bits, from z [B, latents]."""
    h = z
    for dense in self.decoder_dense:
      h = dense(h)
      if dense is not self.decoder_dense[-1]:
        h = nnx.elu(h)
    h = h.reshape(h.shape[0], *self.small)
    for i, blocks in enumerate(self.decoder_blocks):
      if i:
        h = self.decoder_up[i - 1](upsample(nnx.elu(h)))
      for block in blocks:
        h = block(h)
    return self.decoder_out(nnx.elu(h))

  def reconstruct(self, x: jax.Array, key: jax.Array) -> jax.Array:
    """Probabilities [B, H, W, C] of the bits at the mean of q(z|x); `key` is unused."""
    del key
    mean, _, context = self.encode(x)
    z = mean if self.flow is None else self.flow(mean, context)[0]
    return jax.nn.sigmoid(self.decode(z))

  def sample(self, key: jax.Array, count: int) -> jax.Array:
    """Probabilities [count, H, W, C] of the bits for z from the prior."""
    return jax.nn.sigmoid(self.decode(jax.random.normal(key, (count, self.latents))))


class Block(nnx.Module):
  """x + conv(elu(conv(elu(x)))), 3×3."""

  def __init__(self, features: int, layers: Layers):
    self.conv1 = layers.conv(features, features, (3, 3))
    self.conv2 = layers.conv(features, features, (3, 3))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, features] to the same shape."""
    return x + self.conv2(nnx.elu(self.conv1(nnx.elu(x))))


def stage(features: int, blocks: int, layers: Layers) -> nnx.List[Block]:
  """The residual blocks of one resolution."""
  return nnx.List([Block(features, layers) for _ in range(blocks)])


def upsample(x: jax.Array) -> jax.Array:
  """Nearest-neighbor upsampling, [B, H, W, C] → [B, 2H, 2W, C]."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
