"""Reads CIFAR-10 and MNIST from a folder of TensorFlow Datasets, without TensorFlow.

It stores images in another order; they are returned in that of the published files.
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

_CODE_VERSION = 2  # of `_decode`; raise it to invalidate cached arrays


def newest(folder: Path) -> Path | None:
  """Path of the newest version in the folder of a data set; None if there is none."""
  if not folder.is_dir():
    return None
  # Not `glob`, which treats an unreadable folder as empty.
  versions = [folder / name for name in os.listdir(folder)]
  versions = [version for version in versions if (version / 'dataset_info.json').exists()]
  return max(versions, key=_version_numbers, default=None)


def _version_numbers(folder: Path) -> list[int]:
  return [int(number) for number in re.findall(r'\d+', folder.name)]


def read(name: str, folder: Path, shapes: Mapping[str, Shape]) -> dict[str, Arrays]:
  """Reads both splits in the order of the published files.

  Decoding takes up to a minute; the result is cached under the checksum of all files.

  Raises:
    UserError: the folder holds another data set, a format that needs TensorFlow, or damaged files.
  """
  check_format(folder)
  check_features(folder)
  key = {'files': checksums.of_folder(folder), 'code': _CODE_VERSION}
  arrays = cached(name, key, lambda: _decode(name, folder, shapes))
  return {split: (arrays[f'{split}_images'], arrays[f'{split}_labels']) for split in shapes}


def check_format(folder: Path) -> None:
  """Checks that a folder NAME/VERSION holds data set NAME in a format that needs no TensorFlow.

  Raises:
    UserError: it holds another data set, or TFRecord files, the default.
  """
  name = folder.parent.name
  try:
    info = dict(json.loads((folder / 'dataset_info.json').read_text()))
  except (ValueError, TypeError) as error:
    raise UserError(f'{folder}/dataset_info.json is damaged; copy it again.') from error
  if info.get('name') != name:
    raise UserError(f'{folder} holds the data set {info.get("name")}; copy or download {name}.')
  file_format = info.get('fileFormat')
  if file_format != 'array_record':
    raise UserError(
      f'{folder} is in the format {file_format}, which only TensorFlow reads; download the '
      f'published files, which take precedence: python -m experiments.download {name} '
      f'--data_dir {folder.parents[1]}'
    )


def check_features(folder: Path) -> None:
  """Checks that a folder names only classes of TensorFlow Datasets, as they are imported.

  Raises:
    UserError: it names another class.
  """
  try:
    features = json.loads((folder / 'features.json').read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{folder}/features.json is missing or damaged; copy it again.') from error
  for text in _strings(features):
    if '.' in text and not text.startswith('tensorflow_datasets.core.features.'):
      raise UserError(
        f'{folder}/features.json names {text!r}, which is not part of TensorFlow Datasets; copy it '
        'again.'
      )


def _strings(value: Any) -> Iterator[str]:
  """All strings in a JSON value, except keys."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict | list):
    for part in value.values() if isinstance(value, dict) else value:
      yield from _strings(part)


def _decode(name: str, folder: Path, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
  try:
    stored = {split: _stored(folder, split) for split in shapes}
  except Exception as error:  # each layer below TFDS has its own
    raise UserError(
      f'cannot read {folder} ({type(error).__name__}: {str(error)[:200]}); a file is missing or '
      'truncated: copy or download the folder again.'
    ) from error
  arrays = {}
  for split, (images, labels, ids) in stored.items():
    shape = shapes[split]
    if images.shape != shape or images.dtype != np.uint8 or not _are_classes(labels):
      raise UserError(
        f'{folder} holds {images.dtype} images {images.shape} for {split}, which should be uint8 '
        f'{shape}, or labels outside 0 to 9; copy or download it again.'
      )
    if name == 'cifar10' and len(np.unique(ids)) < len(ids):
      raise UserError(
        f'{folder} has no unique ids for {split}, which give the published order of its images; '
        'copy or download it again.'
      )
    # The ids of CIFAR-10, such as 'train_00000', number the published images.
    order = np.argsort(ids, kind='stable') if name == 'cifar10' else _mnist_order(split, shape[0])
    arrays |= {f'{split}_images': images[order], f'{split}_labels': labels[order]}
  return arrays


def _stored(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images, labels and ids (empty if there are none) in stored order."""
  import tensorflow_datasets as tfds  # slow to import, and not needed for cached arrays

  source = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
  images, labels, ids = [], [], []
  for start in range(0, len(source), 500):
    # Reads many records at once.
    for example in source.__getitems__(list(range(start, min(start + 500, len(source))))):
      images.append(example['image'])
      labels.append(example['label'])
      ids.append(example.get('id', b''))
  return np.stack(images), np.asarray(labels, np.int32), np.asarray(ids)


def _mnist_order(split: str, count: int) -> np.ndarray:
  """[N] index of each published image among the stored ones.

  TensorFlow Datasets sorts MNIST by the hash of an image's number in the published file.
  """
  from tensorflow_datasets.core.hashing import Hasher

  numbers = sorted(range(count), key=Hasher(split).hash_key)  # of the stored images
  return np.argsort(numbers)


def _are_classes(labels: np.ndarray) -> bool:
  """Whether all labels are in 0 to 9."""
  return labels.min() >= 0 and labels.max() < 10
