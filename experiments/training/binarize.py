"""Binary images, with gray values as probabilities (ours; the authors use fixed bits)."""

import jax
import jax.numpy as jnp
import numpy as np

_TEST_SEED = 1602
_TRAIN_SEED = 1603


def sample(key: jax.Array, images: jax.Array) -> jax.Array:
  """Float32 bits, drawn with probabilities uint8 / 255: for training."""
  return jax.random.bernoulli(key, images.astype(jnp.float32) / 255).astype(jnp.float32)


def fixed(images: np.ndarray, *, train: bool = False) -> np.ndarray:
  """Like `sample`, but the same bits in every run; those of an image don't depend on later ones."""
  rng = np.random.default_rng(_TRAIN_SEED if train else _TEST_SEED)
  return (rng.random(images.shape) < images / 255).astype(np.float32)
