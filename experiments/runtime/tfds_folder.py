"""Reads CIFAR-10 and MNIST from a folder of TensorFlow Datasets, without TensorFlow.

Such a folder holds the images in an order of its own. They are put back into the order of the
published files.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtime import checksums
from experiments.runtime.cache import cached
from experiments.runtime.errors import UserError
from experiments.runtime.published import Arrays, Shape

_CODE_VERSION = 2  # of `_decode`; another one makes cached arrays anew


def newest(folder: Path) -> Path | None:
  """The newest version in the folder of a data set; None if there is none."""
  if not folder.is_dir():
    return None
  # Not `glob`: it takes a folder that cannot be read for an empty one.
  versions = [folder / name for name in os.listdir(folder)]
  versions = [version for version in versions if (version / 'dataset_info.json').exists()]
  numbers = lambda version: [int(part) for part in re.findall(r'\d+', version.name)]
  return max(versions, key=numbers, default=None)


def read(name: str, folder: Path, shapes: Mapping[str, Shape]) -> dict[str, Arrays]:
  """Reads both splits in the order of the published files.

  Decoding takes up to a minute. The result is kept in the cache, under the checksum of all files in
  the folder.

  Args:
    name: of the data set.
    folder: NAME/VERSION.
    shapes: split → [N, H, W, C].

  Raises:
    UserError: the folder holds another data set, a format that needs TensorFlow, or damaged files.
  """
  check_format(folder)
  check_features(folder)
  key = {'files': checksums.of_folder(folder), 'code': _CODE_VERSION}
  arrays = cached(name, key, lambda: _decode(name, folder, shapes))
  return {split: (arrays[f'{split}_images'], arrays[f'{split}_labels']) for split in shapes}


def check_format(folder: Path) -> None:
  """Checks that a folder NAME/VERSION holds that data set, and can be read without TensorFlow.

  Raises:
    UserError: it holds another, or TFRecord files, the default of TensorFlow Datasets.
  """
  name = folder.parent.name
  try:
    info = dict(json.loads((folder / 'dataset_info.json').read_text()))
  except (ValueError, TypeError) as error:
    raise UserError(f'{folder}/dataset_info.json is damaged; copy it anew.') from error
  if info.get('name') != name:
    raise UserError(f'{folder} holds the data set {info.get("name")}; copy or download {name}.')
  file_format = info.get('fileFormat')
  if file_format != 'array_record':
    raise UserError(
      f'{folder} is in the format {file_format}, which only TensorFlow reads; download the '
      f'published files, which come before it: python -m experiments.download {name} '
      f'--data_dir {folder.parents[1]}'
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


def _decode(name: str, folder: Path, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
  try:
    stored = {split: _stored(folder, split) for split in shapes}
  except Exception as error:  # each layer below TFDS has errors of its own kind
    raise UserError(
      f'cannot read {folder} ({type(error).__name__}: {str(error)[:200]}); a file is missing or '
      'truncated: copy or download the folder anew.'
    ) from error
  arrays = {}
  for split, (images, labels, ids) in stored.items():
    shape = shapes[split]
    if images.shape != shape or images.dtype != np.uint8 or not _are_classes(labels):
      raise UserError(
        f'{folder} holds {images.dtype} images {images.shape} for {split}, which should be uint8 '
        f'{shape}, or labels that are no classes; copy or download it anew.'
      )
    if name == 'cifar10' and len(np.unique(ids)) < len(ids):
      raise UserError(
        f'{folder} has no ids for {split}, which say in which order its images were published; '
        'copy or download it anew.'
      )
    # The ids of CIFAR-10, such as 'train_00000', number the published images.
    order = np.argsort(ids, kind='stable') if name == 'cifar10' else _mnist_order(split, shape[0])
    arrays |= {f'{split}_images': images[order], f'{split}_labels': labels[order]}
  return arrays


def _stored(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images, labels and ids (empty ones if there are none) in stored order."""
  import tensorflow_datasets as tfds  # slow to import, and not needed when the cache has the arrays

  source = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
  images, labels, ids = [], [], []
  for start in range(0, len(source), 500):
    # __getitems__ reads many records at once.
    for example in source.__getitems__(list(range(start, min(start + 500, len(source))))):
      images.append(example['image'])
      labels.append(example['label'])
      ids.append(example.get('id', b''))
  return np.stack(images), np.asarray(labels, np.int32), np.asarray(ids)


def _mnist_order(split: str, count: int) -> np.ndarray:
  """[N] where among the stored images the published ones are, in published order.

  TensorFlow Datasets stores MNIST's by the hash of their number in the published file.
  """
  from tensorflow_datasets.core.hashing import Hasher

  numbers = sorted(range(count), key=Hasher(split).hash_key)  # of each stored image
  return np.argsort(numbers)


def _are_classes(labels: np.ndarray) -> bool:
  """Whether each label is one of ten classes."""
  return labels.min() >= 0 and labels.max() < 10
