"""Scaling and ZCA whitening of images, as in the authors' code."""

import dataclasses
import hashlib

import numpy as np

from experiments.runtime.cache import cached
from experiments.training import data

_CODE_VERSION = 1  # of `fit_whitening`; a new number invalidates cached whitenings


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
    centred = x[start : start + 5000] - mean
    covariance += centred.T @ centred
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

  The whitening is cached; fitting it to CIFAR-10 takes about half a minute.
  """
  train, test = scale_pixels(dataset.train.images), scale_pixels(dataset.test.images)
  if whiten:
    images = np.ascontiguousarray(dataset.train.images)
    digest = hashlib.sha256(images).hexdigest()
    arrays = cached(
      f'{dataset.name}-zca',
      {'images': digest, 'shape': images.shape, 'eps': zca_eps, 'code': _CODE_VERSION},
      lambda: dataclasses.asdict(fit_whitening(train, zca_eps)),
    )
    whitening = Whitening(**arrays)
    train, test = apply_whitening(train, whitening), apply_whitening(test, whitening)
  return _enlarge(train, upscale), _enlarge(test, upscale)


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
  return images.repeat(scale, axis=1).repeat(scale, axis=2)
