"""CIFAR-10, MNIST and scikit-learn's digits: images and labels in memory.

CIFAR-10 and MNIST are read where TensorFlow Datasets keeps them, without TensorFlow. To download
them there once: `python -m experiments.training.download cifar10`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.training.cache import cached
from experiments.training.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Images [N, H, W, C] uint8 and labels [N] int32, in stored order."""

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


def cifar10(data_dir: str | None = None) -> Dataset:
  """50,000 training and 10,000 test images, 32×32×3 (Krizhevsky 2009)."""
  return _from_tfds('cifar10', data_dir)


def mnist(data_dir: str | None = None) -> Dataset:
  """60,000 training and 10,000 test images, 28×28×1 (LeCun, Cortes & Burges)."""
  return _from_tfds('mnist', data_dir)


def digits(data_dir: str | None = None) -> Dataset:
  """1,297 training and 500 test images, 8×8×1, that come with scikit-learn.

  scikit-learn has no split of its own. The test images are the last 500 in stored order, which
  other people wrote than most of the first.
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


_SHAPES = {
  'cifar10': {'train': (50_000, 32, 32, 3), 'test': (10_000, 32, 32, 3)},
  'mnist': {'train': (60_000, 28, 28, 1), 'test': (10_000, 28, 28, 1)},
}
LOADERS = {'cifar10': cifar10, 'mnist': mnist, 'digits': digits}


def load(name: str, data_dir: str | None = None) -> Dataset:
  """Loads a data set by name.

  Args:
    name: a key of `LOADERS`.
    data_dir: folder of the TensorFlow Datasets; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Raises:
    UserError: there is no such data set, it is not in the folder, or a file cannot be read.
  """
  if name not in LOADERS:
    raise UserError(f'unknown data set {name!r}; choose one of {", ".join(LOADERS)}.')
  return LOADERS[name](data_dir)


def default_data_dir() -> Path:
  """The folder where TensorFlow Datasets looks if it is not told another."""
  return Path(os.path.expanduser(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'))


def _from_tfds(name: str, data_dir: str | None) -> Dataset:
  root = Path(os.path.expanduser(data_dir)) if data_dir else default_data_dir()
  if not root.is_dir():
    raise UserError(
      f'no data folder {root}; set TFDS_DATA_DIR or --data_dir to the folder that holds {name}/, '
      f'or run: python -m experiments.training.download {name}'
    )
  versions = sorted(
    (info.parent for info in (root / name).glob('*/dataset_info.json')),
    key=lambda folder: [int(part) for part in re.findall(r'\d+', folder.name)],
  )
  if not versions:
    raise UserError(
      f'{name} is not in {root}; set TFDS_DATA_DIR or --data_dir to the folder that holds {name}/, '
      f'or run: python -m experiments.training.download {name}'
    )
  folder = versions[-1].resolve()
  key = {'dataset': name, 'version': folder.name, 'folder': str(folder)}
  arrays = cached(name, key, lambda: _decode(folder, name))
  return Dataset(
    name,
    Split(arrays['train_images'], arrays['train_labels']),
    Split(arrays['test_images'], arrays['test_labels']),
    tuple(arrays['class_names'].tolist()),
  )


def check_format(folder: Path) -> None:
  """Checks that a folder NAME/VERSION holds that data set, and can be read without TensorFlow.

  Raises:
    UserError: it holds another, or TFRecord files, the default of TensorFlow Datasets.
  """
  try:
    info = dict(json.loads((folder / 'dataset_info.json').read_text()))
  except (ValueError, TypeError) as error:
    raise UserError(f'{folder}/dataset_info.json is damaged; copy it anew.') from error
  if (name := info.get('name')) != folder.parent.name:
    raise UserError(f'{folder} holds the data set {name}; copy or download the right one.')
  file_format = info.get('fileFormat')
  if file_format != 'array_record':
    raise UserError(
      f'{folder} is in the format {file_format}, which only TensorFlow reads; download it anew '
      'into another folder: '
      f'python -m experiments.training.download {folder.parent.name} --data_dir DIR'
    )


def check_features(folder: Path) -> None:
  """Checks that a folder names no classes but those of TensorFlow Datasets, which imports them.

  Raises:
    UserError: it names others.
  """
  try:
    features = json.loads((folder / 'features.json').read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{folder}/features.json is missing or damaged; copy it anew.') from error
  for text in _strings(features):
    if '.' in text and not text.startswith('tensorflow_datasets.core.features.'):
      raise UserError(
        f'{folder}/features.json names {text!r}, which is not of TensorFlow Datasets; copy it anew.'
      )


def _strings(value: Any) -> Iterator[str]:
  """All strings in a JSON value that are no keys."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    for part in value.values() if isinstance(value, dict) else value:
      yield from _strings(part)


def _decode(folder: Path, name: str) -> dict[str, np.ndarray]:
  check_format(folder)
  check_features(folder)
  import tensorflow_datasets as tfds  # slow to import, and not needed when the cache has the arrays

  arrays = {}
  try:
    builder = tfds.builder_from_directory(str(folder))
    for split in ('train', 'test'):
      source = builder.as_data_source(split=split)
      images, labels = [], []
      for start in range(0, len(source), 500):
        # __getitems__ reads many records at once.
        for example in source.__getitems__(list(range(start, min(start + 500, len(source))))):
          images.append(example['image'])
          labels.append(example['label'])
      arrays[f'{split}_images'] = np.stack(images)
      arrays[f'{split}_labels'] = np.asarray(labels, np.int32)
    arrays['class_names'] = np.asarray(builder.info.features['label'].names)
  except Exception as error:  # each layer below TFDS has errors of its own kind
    raise UserError(
      f'cannot read {folder} ({type(error).__name__}: {str(error)[:200]}); a file is missing or '
      'truncated: copy or download the folder anew.'
    ) from error
  for split, (count, *shape) in _SHAPES[name].items():
    images, labels = arrays[f'{split}_images'], arrays[f'{split}_labels']
    if images.shape != (count, *shape) or images.dtype != np.uint8 or not _are_classes(labels):
      raise UserError(
        f'{folder} holds {images.dtype} images {images.shape} for {split}, which should be uint8 '
        f'{(count, *shape)}, or labels that are no classes; copy or download it anew.'
      )
  return arrays


def _are_classes(labels: np.ndarray) -> bool:
  """Whether each label is one of ten classes."""
  return labels.min() >= 0 and labels.max() < 10
