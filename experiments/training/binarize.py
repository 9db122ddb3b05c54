"""Binary images: grey values as probabilities of bits (ours; the authors use fixed bits)."""

import jax
import jax.numpy as jnp
import numpy as np

_TEST_SEED = 1602
_TRAIN_SEED = 1603


def draw(key: jax.Array, images: jax.Array) -> jax.Array:
  """Float32 bits, drawn with the uint8 grey values / 255 as probabilities: for training."""
  return jax.random.bernoulli(key, images.astype(jnp.float32) / 255).astype(jnp.float32)


def draw_once(images: np.ndarray, *, train: bool = False) -> np.ndarray:
  """As `draw`, but always the same bits, so that all runs see the same ones.

  Args:
    images: uint8 grey values. The bits of an image do not depend on those that follow it.
    train: whether they are for training; else they are for the test, with other random numbers.
  """
  rng = np.random.default_rng(_TRAIN_SEED if train else _TEST_SEED)
  return (rng.random(images.shape) < images / 255).astype(np.float32)
