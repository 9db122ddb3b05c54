"""CIFAR-10, MNIST and scikit-learn's digits: images and labels in memory.

CIFAR-10 and MNIST are read from the published archives, which `python -m
experiments.download cifar10` fetches, or from a folder of TensorFlow Datasets. Either way
the images come in the order of the published files.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtime import data_files, published
from experiments.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Images [N, H, W, C] uint8 and labels [N] int32, in the order of the published files."""

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.images)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Both splits of a data set, and the names of its classes in the order of the labels."""

  name: str
  train: Split
  test: Split
  class_names: tuple[str, ...]

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of the content: names, types, shapes and values of all four arrays."""
    digest = hashlib.sha256()
    for split in ('train', 'test'):
      for field in ('images', 'labels'):
        array = np.ascontiguousarray(getattr(getattr(self, split), field))
        digest.update(f'{split} {field} {array.dtype} {array.shape}\n'.encode())
        digest.update(array)
    return digest.hexdigest()

  @functools.cached_property
  def description(self) -> dict[str, Any]:
    """What a run records about its data, as JSON values.

    `train_mean` is the mean of the training pixels in each channel, in [0, 1]. `published` tells
    for each split whether it equals the published files bit for bit; None if there are none.
    """
    images = self.train.images
    totals = images.reshape(len(images), -1).sum(axis=0, dtype=np.int64)
    mean = totals.reshape(-1, images.shape[-1]).mean(axis=0) / (255 * len(images))
    is_published = None
    if self.name in published.SOURCES:
      is_published = {
        split: published.is_published(self.name, split, arrays.images, arrays.labels)
        for split, arrays in (('train', self.train), ('test', self.test))
      }
    return {
      'name': self.name,
      'digest': self.digest,
      'train_images': len(self.train),
      'test_images': len(self.test),
      'train_mean': [round(float(value), 4) for value in mean],
      'published': is_published,
    }


def cifar10(data_dir: Path | str | None = None) -> Dataset:
  """50,000 training and 10,000 test images, 32×32×3 (Krizhevsky 2009)."""
  return _from_files('cifar10', data_dir)


def mnist(data_dir: Path | str | None = None) -> Dataset:
  """60,000 training and 10,000 test images, 28×28×1 (LeCun, Cortes & Burges)."""
  return _from_files('mnist', data_dir)


def digits(data_dir: Path | str | None = None) -> Dataset:
  """1,297 training and 500 test images, 8×8×1, that come with scikit-learn.

  scikit-learn has no split. The test images are the last 500, mostly by other writers.
  """
  del data_dir
  from sklearn import datasets  # slow to import, and needed here only

  images, labels = datasets.load_digits(return_X_y=True)  # values 0..16
  images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
  labels = labels.astype(np.int32)
  return Dataset(
    'digits',
    Split(images[:-500], labels[:-500]),
    Split(images[-500:], labels[-500:]),
    tuple('0123456789'),
  )


LOADERS = {'cifar10': cifar10, 'mnist': mnist, 'digits': digits}


def load(name: str, data_dir: Path | str | None = None) -> Dataset:
  """Loads a data set of `LOADERS` from the folder `data_dir`; None: see `data_files.folder`.

  Raises:
    UserError: there is no such data set, it is not in the folder, or a file cannot be read.
  """
  if name not in LOADERS:
    raise UserError(f'unknown data set {name!r}; choose one of {", ".join(LOADERS)}.')
  return LOADERS[name](data_dir)


def _from_files(name: str, data_dir: Path | str | None) -> Dataset:
  arrays, class_names = data_files.read(name, data_dir)
  return Dataset(name, Split(*arrays['train']), Split(*arrays['test']), class_names)
