"""CIFAR-10 and MNIST as published by their authors: the archives, and how to read them.

An archive is identified by the MD5 sums of the files inside; how they are packed does not matter.
"""

import dataclasses
import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.runtime.errors import UserError

Arrays = tuple[np.ndarray, np.ndarray]  # images [N, H, W, C] uint8, labels [N] int32
Shape = tuple[int, int, int, int]

_MOST_BYTES = 2**26  # the most that is read of a file inside an archive


@dataclasses.dataclass(frozen=True)
class Archive:
  """A file to download."""

  sha256: str
  md5: Mapping[str, str]  # of the files inside, by name


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set as it was published."""

  mirrors: tuple[str, ...]  # URLs of folders with the archives
  archives: Mapping[str, Archive]  # by file name
  files: Mapping[str, tuple[str, ...]]  # split → names of its files inside the archives
  shapes: Mapping[str, Shape]  # by split
  class_names: tuple[str, ...]
  decode: Callable[[Sequence[bytes], Shape], Arrays]  # contents of files → images, labels
  encode: Callable[[np.ndarray, np.ndarray, int], list[bytes]]  # images, labels, number of files


def is_there(name: str, folder: Path) -> bool:
  """Whether a folder holds all archives of a data set."""
  return all((folder / archive).is_file() for archive in SOURCES[name].archives)


def read(name: str, folder: Path) -> dict[str, Arrays]:
  """Reads both splits from the archives in a folder, in the order of the published files.

  Raises:
    UserError: an archive is damaged, or holds other data.
  """
  source = SOURCES[name]
  files: dict[str, bytes] = {}
  for archive in source.archives:
    path = folder / archive
    try:
      files |= unpack(path, source.archives[archive])
    except ValueError as error:
      raise UserError(
        f'{path} is damaged ({error}); replace it: python -m experiments.download {name} '
        f'--data_dir {folder.parent}'
      ) from error
  arrays = {}
  for split, names in source.files.items():
    try:
      images, labels = source.decode([files[file] for file in names], source.shapes[split])
      if labels.max() >= len(source.class_names):
        raise ValueError(f'there is a label {labels.max()}')
      arrays[split] = images, labels
    except ValueError as error:
      raise UserError(
        f'{folder} holds other {split} data than {name} ({error}); replace it: '
        f'python -m experiments.download {name} --data_dir {folder.parent}'
      ) from error
  return arrays


def is_published(name: str, split: str, images: np.ndarray, labels: np.ndarray) -> bool:
  """Whether these images and labels are the published ones, bit for bit."""
  source = SOURCES[name]
  if images.shape != source.shapes[split]:
    return False
  md5 = {file: md5 for archive in source.archives.values() for file, md5 in archive.md5.items()}
  names = source.files[split]
  contents = source.encode(images, labels, len(names))
  return all(_md5(content) == md5[file] for file, content in zip(names, contents, strict=True))


def difference(path: Path, archive: Archive) -> str | None:
  """Says how a file differs from a published archive; None if it does not."""
  try:
    files = unpack(path, archive)
  except ValueError as error:
    return f'it is damaged: {error}'
  for name, digest in archive.md5.items():
    if _md5(files[name]) != digest:
      return f'its {name} is not the published one'
  return None


def unpack(path: Path, archive: Archive) -> dict[str, bytes]:
  """Reads the files inside an archive, a .tar.gz or the .gz of one file, into memory.

  Raises:
    ValueError: it is damaged, or a file is missing.
  """
  files = {}
  try:
    with gzip.open(path) as stream:
      if len(archive.md5) > 1:
        with tarfile.open(fileobj=stream, mode='r|') as members:
          for member in members:
            name = member.name.rpartition('/')[2]
            if name in archive.md5 and member.isreg() and member.size <= _MOST_BYTES:
              files[name] = members.extractfile(member).read()
        while stream.read(2**20):  # to check the checksum at the end
          pass
      else:
        (name,) = archive.md5
        files[name] = stream.read(_MOST_BYTES)
  except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
    raise ValueError(error) from error
  if missing := archive.md5.keys() - files.keys():
    raise ValueError(f'{min(missing)} is missing')
  return files


def _md5(content: bytes) -> str:
  return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _decode_cifar(files: Sequence[bytes], shape: Shape) -> Arrays:
  """Each image is a byte with its label, then its red, green and blue planes."""
  count, height, width, channels = shape
  records = np.frombuffer(b''.join(files), np.uint8)
  size = 1 + height * width * channels
  if records.size != count * size:
    raise ValueError(f'{records.size:,} bytes instead of {count * size:,}')
  records = records.reshape(count, size)
  planes = records[:, 1:].reshape(count, channels, height, width)
  return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int32)


def _encode_cifar(images: np.ndarray, labels: np.ndarray, num_files: int) -> list[bytes]:
  planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
  return [part.tobytes() for part in np.split(records, num_files)]


def _decode_mnist(files: Sequence[bytes], shape: Shape) -> Arrays:
  """A file of images and one of labels, each with a header that gives its shape."""
  image_file, label_file = files
  count, height, width, _ = shape
  image_header, label_header = _mnist_headers(count, height, width)
  for file, header, size in (
    (image_file, image_header, np.prod(shape)),
    (label_file, label_header, count),
  ):
    if not file.startswith(header) or len(file) != len(header) + size:
      raise ValueError(f'its header or its {len(file):,} bytes are not those of {count:,} images')
  images = np.frombuffer(image_file, np.uint8, offset=len(image_header)).reshape(shape).copy()
  labels = np.frombuffer(label_file, np.uint8, offset=len(label_header)).astype(np.int32)
  return images, labels


def _encode_mnist(images: np.ndarray, labels: np.ndarray, num_files: int) -> list[bytes]:
  del num_files  # one of images, one of labels
  image_header, label_header = _mnist_headers(*images.shape[:3])
  return [image_header + images.tobytes(), label_header + labels.astype(np.uint8).tobytes()]


def _mnist_headers(count: int, height: int, width: int) -> tuple[bytes, bytes]:
  images = np.array([2051, count, height, width], '>i4')
  labels = np.array([2049, count], '>i4')
  return images.tobytes(), labels.tobytes()


_MNIST_FILES = {
  'train': ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte'),
  'test': ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
}

# URLs and SHA-256 as in TensorFlow Datasets.
SOURCES = {
  'cifar10': Source(
    mirrors=('https://www.cs.toronto.edu/~kriz/',),
    archives={
      'cifar-10-binary.tar.gz': Archive(
        'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
        {
          'data_batch_1.bin': '5dd7e06a14cb22eb9f671a540d1b7c25',
          'data_batch_2.bin': '5ea93a67294ea407fff1d09f752e9692',
          'data_batch_3.bin': '942cd6a4bcdd0dd3c604fbe906cb4421',
          'data_batch_4.bin': 'ae636b3ba5c66a11e91e8cb52e771fcb',
          'data_batch_5.bin': '53f37980c15c3d472c316c40844f3f0d',
          'test_batch.bin': '803d5f7f4d78ea53de84dbe85f74fb6d',
        },
      )
    },
    files={
      'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
      'test': ('test_batch.bin',),
    },
    shapes={'train': (50_000, 32, 32, 3), 'test': (10_000, 32, 32, 3)},
    class_names=(
      *('airplane', 'automobile', 'bird', 'cat', 'deer'),
      *('dog', 'frog', 'horse', 'ship', 'truck'),
    ),
    decode=_decode_cifar,
    encode=_encode_cifar,
  ),
  'mnist': Source(
    mirrors=(
      'https://storage.googleapis.com/cvdf-datasets/mnist/',
      'https://ossci-datasets.s3.amazonaws.com/mnist/',
    ),
    archives={
      'train-images-idx3-ubyte.gz': Archive(
        '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
        {'train-images-idx3-ubyte': '6bbc9ace898e44ae57da46a324031adb'},
      ),
      'train-labels-idx1-ubyte.gz': Archive(
        '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
        {'train-labels-idx1-ubyte': 'a25bea736e30d166cdddb491f175f624'},
      ),
      't10k-images-idx3-ubyte.gz': Archive(
        '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
        {'t10k-images-idx3-ubyte': '2646ac647ad5339dbf082846283269ea'},
      ),
      't10k-labels-idx1-ubyte.gz': Archive(
        'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
        {'t10k-labels-idx1-ubyte': '27ae3e4e09519cfbb04c329615203637'},
      ),
    },
    files=_MNIST_FILES,
    shapes={'train': (60_000, 28, 28, 1), 'test': (10_000, 28, 28, 1)},
    class_names=tuple('0123456789'),
    decode=_decode_mnist,
    encode=_encode_mnist,
  ),
}
