"""Scaling and ZCA whitening of images, as in the authors' code."""

import dataclasses

import numpy as np

from experiments.runtime.cache import cached
from experiments.training import data

_CODE_VERSION = 1  # of `_whitened`; a new number invalidates cached images


@dataclasses.dataclass(frozen=True)
class Whitening:
  """ZCA, x ↦ (x − mean) matrix, for flattened images [N, D].

  Attributes:
    mean: [D] float32.
    matrix: [D, D] float32, symmetric: (Σ + eps I)^(−1/2), Σ the covariance of the training images.
  """

  mean: np.ndarray
  matrix: np.ndarray


def scale_pixels(images: np.ndarray) -> np.ndarray:
  """uint8 0..255 → float32 (x − 127.5) / 128."""
  return (images.astype(np.float32) - np.float32(127.5)) / np.float32(128)


def fit_whitening(images: np.ndarray, eps: float) -> Whitening:
  """Fits ZCA to scaled training images [N, ...], in float64.

  `eps` is added to the eigenvalues of the covariance.
  """
  x = images.reshape(len(images), -1)
  mean = x.mean(axis=0, dtype=np.float64)
  covariance = np.zeros((x.shape[1], x.shape[1]))
  for start in range(0, len(x), 5000):  # a float64 copy of all CIFAR-10 would take 1.2 GB
    centered = x[start : start + 5000] - mean
    covariance += centered.T @ centered
  eigenvalues, vectors = np.linalg.eigh(covariance / len(x))
  # Rounding can leave the smallest eigenvalues just below 0.
  matrix = (vectors / np.sqrt(np.maximum(eigenvalues, 0) + eps)) @ vectors.T
  return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def apply_whitening(images: np.ndarray, whitening: Whitening) -> np.ndarray:
  """Whitens scaled images [N, ...] float32."""
  x = images.reshape(len(images), -1)
  return ((x - whitening.mean) @ whitening.matrix).reshape(images.shape)


def prepare(
  dataset: data.Dataset, *, whiten: bool, zca_eps: float, upscale: int
) -> tuple[np.ndarray, np.ndarray]:
  """Training and test inputs of the network, [N, H, W, C] float32.

  The whitened images are cached, 0.7 GB for CIFAR-10; computing them takes about half a minute.
  """
  if whiten:
    key = {'data': dataset.digest, 'eps': zca_eps, 'code': _CODE_VERSION}
    arrays = cached(f'{dataset.name}-whitened', key, lambda: _whitened(dataset, zca_eps))
    train, test = arrays['train'], arrays['test']
  else:
    train, test = scale_pixels(dataset.train.images), scale_pixels(dataset.test.images)
  return _enlarge(train, upscale), _enlarge(test, upscale)


def _whitened(dataset: data.Dataset, eps: float) -> dict[str, np.ndarray]:
  train, test = scale_pixels(dataset.train.images), scale_pixels(dataset.test.images)
  whitening = fit_whitening(train, eps)
  return {'train': apply_whitening(train, whitening), 'test': apply_whitening(test, whitening)}


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
  return images if scale == 1 else images.repeat(scale, axis=1).repeat(scale, axis=2)
