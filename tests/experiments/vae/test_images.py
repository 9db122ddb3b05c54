"""Bits and pixels that the VAEs see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import vae
from experiments.training import binarize, data
from experiments.vae import images as images_lib
from tests import configurations

KEY = jax.random.key(5)

frozen = functools.partial(configurations.frozen, vae)


def test_bits_are_drawn_with_the_grey_values_as_probabilities():
  images = jnp.tile(jnp.array([0, 51, 204, 255], jnp.uint8), 20_000).reshape(20_000, 2, 2, 1)
  bits = np.asarray(images_lib.observe(KEY, images, 'mnist'))
  assert set(np.unique(bits)) == {0.0, 1.0}
  np.testing.assert_allclose(bits.mean(0).ravel(), [0, 0.2, 0.8, 1], atol=0.015)
  digits = data.load('digits')
  first, second = (images_lib.test_images(digits) for _ in range(2))
  np.testing.assert_array_equal(first, second)
  assert abs(first.mean() - digits.test.images.mean() / 255) < 0.01


def binarized(how):
  """Training images of digits as a run holds them."""
  return images_lib.train_images(
    frozen('digits-iaf-wn', {'data.binarize': how}), data.load('digits')
  )


def test_bits_that_are_drawn_once_are_always_the_same():
  images = binarized('once')
  assert images.dtype == np.uint8 and set(np.unique(images)) == {0, 255}
  np.testing.assert_array_equal(images, binarized('once'))
  observed = [images_lib.observe(jax.random.key(seed), images, 'digits') for seed in range(3)]
  for bits in observed:
    np.testing.assert_array_equal(bits, images / 255)
  gray = data.load('digits').train.images / 255
  assert abs(images.mean() / 255 - gray.mean()) < 0.01
  variance = gray * (1 - gray)
  z = (images / 255 - gray).sum(axis=0) / np.sqrt(np.maximum(variance.sum(axis=0), 1e-9))
  assert np.abs(z).max() < 4.5  # 64 pixels


def test_bits_that_are_drawn_once_have_their_own_random_numbers():
  """Not those of the test set; and the first images keep theirs when there are fewer images."""
  digits = data.load('digits')
  draw = binarize.fixed
  train, test = draw(digits.train.images, train=True), draw(digits.train.images)
  assert 0.05 < np.mean(train != test) < 0.3
  np.testing.assert_array_equal(draw(digits.train.images[:100], train=True), train[:100])


def test_bits_that_are_drawn_anew_differ_at_every_use():
  images = binarized('anew')
  np.testing.assert_array_equal(images, data.load('digits').train.images)
  first, second = (images_lib.observe(jax.random.key(seed), images, 'digits') for seed in (0, 1))
  is_certain = (images == 0) | (images == 255)
  np.testing.assert_array_equal(first[is_certain], second[is_certain])
  assert 0.2 < np.mean(np.asarray(first != second)[~is_certain]) < 0.5


def test_pixels_of_cifar10_are_not_binarized():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  split = data.Split(images, np.zeros(1, np.int64))
  dataset = data.load('digits').__class__('cifar10', split, split, ())
  held = images_lib.train_images(frozen('cifar10-iaf-wn'), dataset)
  np.testing.assert_array_equal(held, images)
  np.testing.assert_array_equal(
    images_lib.observe(KEY, held, 'cifar10').ravel(), np.arange(256) / 256 - 0.5
  )
  np.testing.assert_array_equal(images_lib.test_images(dataset).ravel(), np.arange(256) / 256 - 0.5)
