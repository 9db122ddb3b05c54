"""DRAW: draws an image on a canvas in T glimpses. Equations: Gregor et al. (2015)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

import wn
from experiments.draw import attention
from experiments.draw.attention import Window
from experiments.draw.lstm import PeepholeLSTMCell
from experiments.training import distributions
from experiments.training.layers import Layers, set_scales

LSTMState = tuple[jax.Array, jax.Array]  # cell and output, [B, units] each
Carry = tuple[jax.Array, LSTMState, LSTMState]  # canvas [B, H, W, C], encoder, decoder
MakeLinear = Callable[[int, int], nnx.Linear]  # (in_features, out_features)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bound:
  """The terms of the lower bound in nats, with one sample of z per image.

  Attributes:
    log_likelihood: [B] log p(x|z).
    kl: [B, T] KL(q(z_t|x, z_<t) ‖ p(z_t)).
  """

  log_likelihood: jax.Array
  kl: jax.Array

  @property
  def elbo(self) -> jax.Array:
    """[B] lower bound on log p(x)."""
    return self.log_likelihood - jnp.sum(self.kl, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawing:
  """A batch of images, drawn glimpse by glimpse.

  Attributes:
    probabilities: [T, B, H, W, C] of the bits, σ(canvas) after each glimpse.
    read: [T, B] read windows; None without attention and for samples, which read nothing.
    written: [T, B] write windows; None without attention.
  """

  probabilities: jax.Array
  read: Window | None
  written: Window | None


class Draw(nnx.Module):
  """p(x|z): independent bits; p(z_t): standard normal; q(z_t|x, z_<t): diagonal Gaussian.

  Weights, or v, are drawn from N(0, init_std²); all biases start at 0, even those of forget gates.
  With the same key, v starts as the weights of the normal parameterization. The canvas and both
  LSTM states start at 0, as in the public implementation that the paper changed; Gregor et al.
  learn their initial values.

  Args:
    image_shape: (H, W, C).
    parameterization: 'plain' or 'wn'.
    glimpses: T.
    encoder_units: size of the encoder LSTM.
    decoder_units: size of the decoder LSTM.
    latents: size of z_t.
    with_attention: whether to read and write through attention windows or the whole image.
    read_window: N of the read window.
    write_window: N of the write window.
    peepholes: whether LSTM gates also see the cell, as in the public implementation but not in
      Gregor et al.
    init_std: standard deviation of the initial weights.
    initial_g: g of all weight-normalized layers at the start; 0: ‖v‖, with which they start as the
      plain ones.
    remat: whether to recompute glimpses in the backward pass, to save memory.
    dtype: of the products in the LSTMs; everything else has the dtype of the parameters.
    rngs: random streams; uses `params`.
  """

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    *,
    parameterization: str,
    glimpses: int,
    encoder_units: int,
    decoder_units: int,
    latents: int,
    with_attention: bool,
    read_window: int,
    write_window: int,
    peepholes: bool,
    init_std: float,
    remat: bool,
    initial_g: float = 0.0,
    dtype: Dtype = 'float32',
    rngs: nnx.Rngs,
  ):
    layers = Layers(parameterization, init_std=init_std, rngs=rngs)
    linear = layers.linear
    cell = PeepholeLSTMCell if peepholes else nnx.LSTMCell
    lstm = functools.partial(layers.cell, cell, dtype=jnp.dtype(dtype))
    height, width, channels = image_shape
    self.image_shape = image_shape
    self.glimpses = glimpses
    self.latents = latents
    self.remat = remat
    if with_attention:
      self.reader = AttentionReader(linear, decoder_units, read_window)
      self.writer = AttentionWriter(linear, decoder_units, write_window, image_shape)
      read_size = 2 * channels * read_window**2
    else:
      self.reader = WholeReader()
      self.writer = WholeWriter(linear, decoder_units, image_shape)
      read_size = 2 * channels * height * width
    self.encoder = lstm(read_size + decoder_units, encoder_units)
    self.mean = linear(encoder_units, latents)
    self.log_std = linear(encoder_units, latents)
    self.decoder = lstm(latents, decoder_units)
    if initial_g:
      set_scales(self, initial_g)

  def __call__(self, x: jax.Array, key: jax.Array) -> Bound:
    """The bound on log p(x) of binary images x [B, H, W, C]."""
    model = wn.fold(self)  # computes normalized weights once for all glimpses

    def glimpse(carry: Carry, noise: jax.Array):
      carry, kl, _ = model._glimpse(carry, x, noise)
      return carry, kl

    if self.remat:
      glimpse = jax.checkpoint(glimpse, prevent_cse=False)  # a scan prevents it anyway
    noise = self._noise(key, len(x))
    (canvas, *_), kl = jax.lax.scan(glimpse, self._start(len(x)), noise)
    log_likelihood = distributions.bernoulli_log_likelihood(x, canvas)
    return Bound(jnp.sum(log_likelihood, axis=(1, 2, 3)), kl.T)

  def reconstruct(self, x: jax.Array, key: jax.Array) -> Drawing:
    """Draws binary images x [B, H, W, C] from their z."""
    model = wn.fold(self)

    def glimpse(carry: Carry, noise: jax.Array):
      carry, _, windows = model._glimpse(carry, x, noise)
      return carry, (jax.nn.sigmoid(carry[0]), *windows)

    _, drawn = jax.lax.scan(glimpse, self._start(len(x)), self._noise(key, len(x)))
    return Drawing(*drawn)

  def sample(self, key: jax.Array, count: int) -> Drawing:
    """Draws `count` images from z of the prior."""
    model = wn.fold(self)

    def glimpse(carry, z: jax.Array):
      canvas, state, written = model._draw(*carry, z)
      return (canvas, state), (jax.nn.sigmoid(canvas), written)

    canvas, _, state = self._start(count)
    _, (probabilities, written) = jax.lax.scan(glimpse, (canvas, state), self._noise(key, count))
    return Drawing(probabilities, None, written)

  def _glimpse(self, carry: Carry, x: jax.Array, noise: jax.Array):
    """One glimpse (Eq. 3–8).

    Args:
      carry: canvas, encoder state and decoder state.
      x: [B, H, W, C].
      noise: [B, latents] standard normal.

    Returns:
      The new carry, the KL [B], and the read and write windows.
    """
    canvas, encoder_state, decoder_state = carry
    error = x - jax.nn.sigmoid(canvas)
    h_decoder = decoder_state[1]
    r, read = self.reader(jnp.concatenate([x, error], axis=-1), h_decoder)
    inputs = jnp.concatenate([r, h_decoder], axis=-1)
    encoder_state, h_encoder = self.encoder(encoder_state, inputs)
    mean, log_std = self.mean(h_encoder), self.log_std(h_encoder)
    z = mean + jnp.exp(log_std) * noise
    kl = jnp.sum(distributions.gaussian_kl(mean, log_std), axis=-1)
    canvas, decoder_state, written = self._draw(canvas, decoder_state, z)
    return (canvas, encoder_state, decoder_state), kl, (read, written)

  def _draw(self, canvas: jax.Array, state: LSTMState, z: jax.Array):
    """The generative part of a glimpse (Eq. 7–8): new canvas, decoder state and write window."""
    state, h = self.decoder(state, z)
    change, written = self.writer(h)
    return canvas + change, state, written

  def _noise(self, key: jax.Array, batch: int) -> jax.Array:
    return jax.random.normal(key, (self.glimpses, batch, self.latents))

  def _start(self, batch: int) -> Carry:
    encoder, decoder = (
      (jnp.zeros((batch, cell.hidden_features)),) * 2 for cell in (self.encoder, self.decoder)
    )
    return jnp.zeros((batch, *self.image_shape)), encoder, decoder


class AttentionReader(nnx.Module):
  """Reads an N×N patch (Eq. 27)."""

  def __init__(self, linear: MakeLinear, units: int, size: int):
    self.size = size
    self.window = linear(units, attention.PARAMETERS)

  def __call__(self, images: jax.Array, h: jax.Array) -> tuple[jax.Array, Window]:
    """Images [B, H, W, C] and decoder output h [B, units] → patches [B, N·N·C] and window."""
    window = attention.make_window(self.window(h), self.size, *images.shape[1:3])
    return attention.read(images, window, self.size).reshape(len(images), -1), window


class AttentionWriter(nnx.Module):
  """Writes an N×N patch (Eq. 28–29)."""

  def __init__(self, linear: MakeLinear, units: int, size: int, image_shape: tuple[int, int, int]):
    channels = image_shape[-1]
    self.image_size = image_shape[:2]
    self.size = size
    self.patch_shape = (size, size, channels)
    self.window = linear(units, attention.PARAMETERS)
    self.patch = linear(units, size * size * channels)

  def __call__(self, h: jax.Array) -> tuple[jax.Array, Window]:
    """Decoder output h [B, units] → change of the canvas [B, H, W, C] and window."""
    window = attention.make_window(self.window(h), self.size, *self.image_size)
    patches = self.patch(h).reshape(-1, *self.patch_shape)
    return attention.write(patches, window, *self.image_size), window


class WholeReader(nnx.Module):
  """Reads the whole image (Eq. 17)."""

  def __call__(self, images: jax.Array, h: jax.Array) -> tuple[jax.Array, None]:
    """Images [B, H, W, C] → [B, H·W·C]; ignores h."""
    del h
    return images.reshape(len(images), -1), None


class WholeWriter(nnx.Module):
  """Writes to the whole canvas (Eq. 18)."""

  def __init__(self, linear: MakeLinear, units: int, image_shape: tuple[int, int, int]):
    height, width, channels = image_shape
    self.image_shape = image_shape
    self.image = linear(units, height * width * channels)

  def __call__(self, h: jax.Array) -> tuple[jax.Array, None]:
    """Decoder output h [B, units] → change of the canvas [B, H, W, C]."""
    return self.image(h).reshape(-1, *self.image_shape), None
