"""The ResNet VAE with inverse autoregressive flow of §5.2 (Kingma et al. 2016, §5.2) for CIFAR-10.

A bottom-up pass computes each latent layer's part of the posterior, from the largest resolution to
the smallest; a top-down pass then samples the layers, the smallest first.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import wn
from experiments.training import distributions
from experiments.training.layers import Layers
from experiments.vae.autoregressive import autoregressive_mask, init_scale
from experiments.vae.bound import Bound
from experiments.vae.iaf import iaf_step

# log p(x|z) of a pixel, by `edge_bins`.
LIKELIHOODS = {
  'floor': distributions.floored_logistic_log_likelihood,
  'tails': distributions.discretized_logistic_log_likelihood,
}


class ResNetVAE(nnx.Module):
  """p(x|z): discretized logistic with one scale; z: layers of maps, each given those above it.

  Args:
    image_shape: (H, W, C), H and W divisible by 2 to the power of the number of levels.
    layers: creates the layers.
    is_iaf: whether the posterior has a step of autoregressive flow.
    depths: layers per level. Each level halves the resolution, starting with that of the image.
    h: maps of the deterministic path.
    z: latent maps per layer.
    edge_bins: 'floor' or 'tails', see `LIKELIHOODS`.
  """

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    *,
    layers: Layers,
    is_iaf: bool,
    depths: tuple[int, ...],
    h: int,
    z: int,
    edge_bins: str,
  ):
    height, width, channels = image_shape
    self.encoder_in = layers.conv(channels, h, (5, 5), strides=2)
    halves = [level > 0 and i == 0 for level, depth in enumerate(depths) for i in range(depth)]
    self.layers = nnx.List([LatentLayer(h, z, half, is_iaf, layers) for half in halves])
    self.h_top = nnx.Param(jnp.zeros(h))
    self.decoder_out = layers.conv_transpose(h, channels, (5, 5), strides=(2, 2), dtype=None)
    self.log_scale = nnx.Param(jnp.zeros(()))  # of the discretized logistic
    self.top_shape = (height >> len(depths), width >> len(depths), h)
    self.edge_bins = edge_bins

  def __call__(self, x: jax.Array, key: jax.Array) -> Bound:
    """The bound for images x [B, H, W, C], pixel/256 − 0.5, with one sample z each."""
    return self.bound(x, self.encode(x), key)

  def encode(self, x: jax.Array) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """The bottom-up pass: mean, log standard deviation and context of each layer."""
    # Shift each pixel to the middle of its bin.
    h = self.encoder_in(x + 1 / 512)
    found = []
    for layer in self.layers:
      h, posterior = layer.up(h)
      found.append(posterior)
    return found

  def bound(
    self, x: jax.Array, posterior: list[tuple[jax.Array, jax.Array, jax.Array]], key: jax.Array
  ) -> Bound:
    """As `__call__`, given what `encode` returns for x."""
    h = self._top(x.shape[0])
    kl = []
    keys = jax.random.split(key, len(self.layers))
    for layer, parts, layer_key in zip(self.layers[::-1], posterior[::-1], keys):
      h, layer_kl = layer.down(h, layer_key, parts)
      kl.append(layer_kl)
    kl = jnp.stack(kl, axis=1)  # [B, layers, z], the smallest resolution first
    log_likelihood = LIKELIHOODS[self.edge_bins](x, self._mean(h), self.log_scale[...])
    log_likelihood = jnp.sum(log_likelihood, axis=(1, 2, 3))
    return Bound(log_likelihood, kl, log_likelihood - jnp.sum(kl, axis=(1, 2)))

  def sample(self, key: jax.Array, count: int) -> jax.Array:
    """Mean images [count, H, W, C] in [0, 1] for z from the prior."""
    h = self._top(count)
    for layer, layer_key in zip(self.layers[::-1], jax.random.split(key, len(self.layers))):
      h, _ = layer.down(h, layer_key, None)
    return self._mean(h) + 0.5

  def reconstruct(self, x: jax.Array, key: jax.Array) -> jax.Array:
    """Mean images [B, H, W, C] in [0, 1] for z from the posterior."""
    h = self._top(x.shape[0])
    keys = jax.random.split(key, len(self.layers))
    for layer, parts, layer_key in zip(self.layers[::-1], self.encode(x)[::-1], keys):
      h, _ = layer.down(h, layer_key, parts)
    return self._mean(h) + 0.5

  def _top(self, count: int) -> jax.Array:
    return jnp.broadcast_to(self.h_top[...].reshape(1, 1, 1, -1), (count, *self.top_shape))

  def _mean(self, h: jax.Array) -> jax.Array:
    return jnp.clip(self.decoder_out(nnx.elu(h)), -0.5 + 1 / 512, 0.5 - 1 / 512)


def initialize(
  model: ResNetVAE, x: jax.Array, key: jax.Array, *, scale: float, flow_scale: float
) -> None:
  """Data-dependent initialization, in place, on images x [B, H, W, C].

  The first top-down layer sees a learned vector, initially zero, so there is nothing to measure:
  its units get the norm `scale`.

  Args:
    model: is changed in place.
    x: pixel/256 − 0.5.
    key: random key of the noise in z.
    scale: target standard deviation of a layer's outputs.
    flow_scale: the same for layers of the flow.
  """
  with warnings.catch_warnings():
    top = len(model.layers) - 1
    warnings.filterwarnings('ignore', rf'data_dependent_init: layers\.{top}\.down1: ')
    wn.data_dependent_init(model, x, key, init_scale=init_scale(scale, flow_scale))
  layer = model.layers[-1].down1
  norm = wn.unit_norm(layer.kernel[...])
  if isinstance(layer, wn.Conv):
    layer.set_scale(jnp.full_like(norm, scale))
  else:
    layer.kernel[...] = layer.kernel[...] * (scale / norm.reshape(1, 1, 1, -1))
  layer.bias[...] = jnp.zeros_like(layer.bias[...])


class LatentLayer(nnx.Module):
  """One layer of latent maps, with its part of the bottom-up and top-down passes.

  Args:
    h: maps of the deterministic path.
    z: latent maps.
    half: whether to halve the resolution on the way up and double it on the way down.
    is_iaf: whether the posterior has a step of autoregressive flow.
    layers: creates the layers.
  """

  def __init__(self, h: int, z: int, half: bool, is_iaf: bool, layers: Layers):
    strides = 2 if half else 1
    self.half = half
    self.sizes = (h, z)
    self.up1 = layers.conv(h, 2 * z + 2 * h, (3, 3), strides=strides)
    self.up2 = layers.conv(h, h, (3, 3))
    self.down1 = layers.conv(h, 4 * z + 2 * h, (3, 3))
    self.down2 = (
      layers.conv_transpose(h + z, h, (3, 3), strides=(2, 2))
      if half
      else layers.conv(h + z, h, (3, 3))
    )
    self.flow = AutoregressiveConv(z, h, layers) if is_iaf else None

  def up(self, h: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """The next h, and this layer's mean, log standard deviation and context."""
    h_size, z_size = self.sizes
    t = self.up1(nnx.elu(h))
    mean, log_std, context, inner = jnp.split(t, np.cumsum([z_size, z_size, h_size]), axis=-1)
    inner = self.up2(nnx.elu(inner))
    if self.half:
      h = h[:, ::2, ::2]  # nearest neighbor
    return h + 0.1 * inner, (mean, log_std, context)

  def down(
    self,
    h: jax.Array,
    key: jax.Array,
    posterior: tuple[jax.Array, jax.Array, jax.Array] | None,
  ) -> tuple[jax.Array, jax.Array]:
    """The next h, and log q − log p of the sample for each latent map [B, z].

    Prior N(p_mean, p_std²); posterior N(q_mean + r_mean, (q_std r_std)²), with q from the way up
    and r from the way down, and with the flow z ← (z − m) exp(−s), log q ← log q + s. This is
    `IAFLayer` of the authors' TensorFlow code.

    Args:
      h: [B, H, W, h] from the layer above.
      key: random key of the sample.
      posterior: from `up`; None draws z from the prior.
    """
    h_size, z_size = self.sizes
    t = self.down1(nnx.elu(h))
    cuts = np.cumsum([z_size] * 4 + [h_size])
    p_mean, p_log_std, r_mean, r_log_std, context, inner = jnp.split(t, cuts, axis=-1)
    noise = jax.random.normal(key, p_mean.shape)
    if posterior is None:
      z = p_mean + jnp.exp(p_log_std) * noise
      kl = jnp.zeros((h.shape[0], z_size))
    else:
      q_mean, q_log_std, up_context = posterior
      mean, log_std = q_mean + r_mean, q_log_std + r_log_std
      z = mean + jnp.exp(log_std) * noise
      log_q = distributions.gaussian_log_density(z, mean, log_std)
      if self.flow is not None:
        m, s = self.flow(z, up_context + context)
        z, _ = iaf_step(z, m, s)
        log_q += s
      log_p = distributions.gaussian_log_density(z, p_mean, p_log_std)
      kl = jnp.sum(log_q - log_p, axis=(1, 2))
    inner = self.down2(nnx.elu(jnp.concatenate([z, inner], axis=-1)))
    if self.half:
      h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
    return h + 0.1 * inner, kl


class AutoregressiveConv(nnx.Module):
  """(m, s) of `iaf_step` from masked convolutions.

  An element sees all maps at positions below it or right of it in its row, and the maps before it
  at its own position.

  Args:
    z: latent maps.
    h: maps of the hidden layers and of the context.
    layers: creates the layers.
  """

  def __init__(self, z: int, h: int, layers: Layers):
    maps, hidden = np.arange(1, z + 1), np.arange(h) * z // h

    def conv(a: np.ndarray, b: np.ndarray, **kwargs: Any) -> nnx.Module:
      mask = jnp.array(convolution_mask(a, b, 3))
      return layers.conv(len(a), len(b), (3, 3), mask=mask, **kwargs)

    self.hidden1 = conv(maps, hidden)
    self.hidden2 = conv(hidden, hidden)
    self.mean = conv(hidden, maps - 1, dtype=None)
    self.log_scale = conv(hidden, maps - 1, dtype=None)

  def __call__(self, z: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
    """m and s [B, H, W, z] from z [B, H, W, z] and context [B, H, W, h]."""
    h = nnx.elu(self.hidden1(z) + context)
    h = nnx.elu(self.hidden2(h))
    return 0.1 * self.mean(h), 0.1 * self.log_scale(h)


def convolution_mask(in_degrees: np.ndarray, out_degrees: np.ndarray, window: int) -> np.ndarray:
  """[window, window, in, out] float32: 1 below and right of the center, by degree at it."""
  mask = np.ones((window, window, len(in_degrees), len(out_degrees)), np.float32)
  center = window // 2
  mask[:center] = 0
  mask[center, :center] = 0
  mask[center, center] = autoregressive_mask(in_degrees, out_degrees)
  return mask
