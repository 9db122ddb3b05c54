"""Binary images: grey values as probabilities of bits (ours: the paper does not say how)."""

import jax
import jax.numpy as jnp
import numpy as np

_TEST_SEED = 1602


def draw(key: jax.Array, images: jax.Array) -> jax.Array:
  """Float32 bits, drawn with the uint8 grey values / 255 as probabilities: for training."""
  return jax.random.bernoulli(key, images.astype(jnp.float32) / 255).astype(jnp.float32)


def draw_once(images: np.ndarray) -> np.ndarray:
  """As `draw`, but always the same bits: for the test set, so that all runs see the same one."""
  random = np.random.default_rng(_TEST_SEED).random(images.shape)
  return (random < images / 255).astype(np.float32)
