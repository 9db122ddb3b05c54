"""What the models see: bits of MNIST and digits, pixels of CIFAR-10."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from experiments.training import binarize, data


def is_binary(dataset: str) -> bool:
  """Whether the images are modelled as bits: all data sets but CIFAR-10."""
  return dataset != 'cifar10'


def train_images(config: config_dict.FrozenConfigDict, dataset: data.Dataset) -> np.ndarray:
  """Training images [N, H, W, C] uint8, before `observe`.

  With `config.data.binarize` 'once', bits are drawn here, as 0 and 255, which `observe` keeps.
  """
  images = dataset.train.images
  if is_binary(dataset.name) and config.data.binarize == 'once':
    return (255 * binarize.fixed(images, train=True)).astype(np.uint8)
  return images


def test_images(dataset: data.Dataset) -> np.ndarray:
  """Test images [N, H, W, C] float32: bits drawn once from gray values, or pixel/256 − 0.5."""
  images = dataset.test.images
  if is_binary(dataset.name):
    return binarize.fixed(images)
  return images.astype(np.float32) / 256 - 0.5


def observe(key: jax.Array, images: jax.Array, dataset: str) -> jax.Array:
  """Float32 images: bits drawn with the gray values as probabilities, or pixel/256 − 0.5."""
  if is_binary(dataset):
    return binarize.sample(key, images)
  return images.astype(jnp.float32) / 256 - 0.5
