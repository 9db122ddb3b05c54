"""ZCA whitening and the scaling of pixels."""

import numpy as np
import pytest

from experiments.cifar import preprocessing
from experiments.training import data


def correlated_images(count=400, shape=(3, 4, 2)):
  rng = np.random.default_rng(0)
  size = int(np.prod(shape))
  mixing = rng.normal(size=(size, size)) / size
  return (rng.normal(size=(count, size)) @ mixing + 0.3).reshape(count, *shape).astype(np.float32)


def test_pixels_are_scaled_as_in_the_authors_code():
  images = np.array([0, 127, 128, 255], np.uint8).reshape(1, 2, 2, 1)
  scaled = preprocessing.scale_pixels(images)
  np.testing.assert_array_equal(scaled.ravel(), np.float32([-127.5, -0.5, 0.5, 127.5]) / 128)
  assert scaled.dtype == np.float32


@pytest.mark.parametrize('eps', [1e-5, 1e-2])
def test_whitened_covariance_is_identity_up_to_the_regularizer(eps):
  """Along an eigenvector of eigenvalue λ the whitened variance is λ / (λ + eps)."""
  images = correlated_images()
  white = preprocessing.apply_whitening(images, preprocessing.fit_whitening(images, eps))
  x = images.reshape(len(images), -1).astype(np.float64)
  eigenvalues, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
  y = white.reshape(len(white), -1).astype(np.float64)
  expected = vectors @ np.diag(eigenvalues / (eigenvalues + eps)) @ vectors.T
  np.testing.assert_allclose(y.T @ y / len(y), expected, atol=2e-4)
  np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-4)


def test_whitening_is_zca_and_not_another_rotation():
  matrix = preprocessing.fit_whitening(correlated_images(), 1e-5).matrix
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
  assert np.linalg.eigvalsh(matrix.astype(np.float64)).min() > 0
  assert matrix.dtype == np.float32


def test_constant_pixels_stay_finite():
  images = correlated_images()
  images[:, 0] = 0.5
  white = preprocessing.apply_whitening(images, preprocessing.fit_whitening(images, 1e-5))
  assert np.isfinite(white).all()
  np.testing.assert_allclose(white[:, 0], 0, atol=1e-2)


def test_test_images_are_whitened_with_training_statistics(cache_dir):
  rng = np.random.default_rng(0)
  split = lambda n: data.Split(
    rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8), np.zeros(n, np.int32)
  )
  dataset = data.Dataset('made-up', split(200), split(50), ('a',))
  for _ in range(2):  # computed, then from the cache
    train, test = preprocessing.prepare(dataset, whiten=True, zca_eps=1e-5, upscale=2)
    fitted = preprocessing.fit_whitening(preprocessing.scale_pixels(dataset.train.images), 1e-5)
    scaled = preprocessing.scale_pixels(dataset.test.images)
    expected = preprocessing.apply_whitening(scaled, fitted)
    np.testing.assert_array_equal(test[:, ::2, ::2], expected)
    np.testing.assert_array_equal(test[:, 1::2, 1::2], expected)
    assert train.shape == (200, 8, 8, 1)
  assert len(list(cache_dir.glob('made-up-whitened-*.npz'))) == 1
  # Other images of the same name and number.
  changed = data.Dataset('made-up', split(200), dataset.test, ('a',))
  other, _ = preprocessing.prepare(changed, whiten=True, zca_eps=1e-5, upscale=2)
  assert np.abs(other[1:] - train[1:]).max() > 0
  assert len(list(cache_dir.glob('made-up-whitened-*.npz'))) == 2
