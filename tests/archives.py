"""Tiny CIFAR-10 and MNIST: archives of a few made-up images, and folders of TensorFlow Datasets."""

import dataclasses
import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
from PIL import Image

from experiments.runtime import published

COUNTS = {'train': 10, 'test': 4}
FEATURES = 'tensorflow_datasets.core.features'
CIFAR = 'cifar-10-binary.tar.gz'


def random_split(name, split, seed=0):
  """Images and labels of one split."""
  count = COUNTS[split]
  shape = published.SOURCES[name].shapes[split][1:]
  rng = np.random.default_rng([seed, count])
  images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
  return images, rng.integers(0, 10, count, dtype=np.int32)


def files_of(name, splits):
  """The published files, name → content, of split → (images, labels)."""
  files = {}
  for split, (images, labels) in splits.items():
    if name == 'cifar10':
      records = [
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for image, label in zip(images, labels, strict=True)
      ]
      size = len(records) // (5 if split == 'train' else 1)
      for start in range(0, len(records), size):
        file = f'data_batch_{start // size + 1}.bin' if split == 'train' else 'test_batch.bin'
        files[file] = b''.join(records[start : start + size])
    else:
      prefix = 't10k' if split == 'test' else 'train'
      header = struct.pack('>4i', 2051, *images.shape[:3])
      files[f'{prefix}-images-idx3-ubyte'] = header + images.tobytes()
      header = struct.pack('>2i', 2049, len(labels))
      files[f'{prefix}-labels-idx1-ubyte'] = header + bytes(labels.tolist())
  return files


def pack(name, files, compresslevel=1):
  """The archives, name → content, that hold the files."""
  if name == 'mnist':
    packed = lambda content: gzip.compress(content, compresslevel, mtime=0)
    return {f'{file}.gz': packed(content) for file, content in files.items()}
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for file, content in {'readme.html': b'<html>', **files}.items():
      member = tarfile.TarInfo(f'cifar-10-batches-bin/{file}')
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return {CIFAR: gzip.compress(buffer.getvalue(), compresslevel, mtime=0)}


def tiny(name, seed=0):
  """The archives, name → content, of a tiny data set."""
  splits = {split: random_split(name, split, seed) for split in COUNTS}
  return pack(name, files_of(name, splits))


def publish_tiny(monkeypatch, *mirrors):
  """Has the tiny data sets of seed 0 for the published ones, at addresses that end in '/'."""
  monkeypatch.setattr(published, 'SOURCES', tiny_sources(*mirrors))


def tiny_sources(*mirrors):
  """`published.SOURCES` of the tiny data sets of seed 0."""
  sources = {}
  for name, source in published.SOURCES.items():
    splits = {split: random_split(name, split) for split in COUNTS}
    md5 = {file: hashlib.md5(c).hexdigest() for file, c in files_of(name, splits).items()}
    archives = {
      archive: published.Archive(
        hashlib.sha256(content).hexdigest(),
        {file: md5[file] for file in source.archives[archive].md5},
      )
      for archive, content in tiny(name).items()
    }
    shapes = {split: (COUNTS[split], *source.shapes[split][1:]) for split in COUNTS}
    sources[name] = dataclasses.replace(source, mirrors=mirrors, archives=archives, shapes=shapes)
  return sources


def write(folder, contents):
  """Writes files, name → content."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in contents.items():
    (folder / name).write_bytes(content)


def write_tfds_mnist(folder, splits, *, side=28, label_name='label', png=None):
  """Writes MNIST as TensorFlow Datasets does, with images in the order that is given.

  Args:
    folder: 'DIR/mnist/3.0.1'.
    splits: split → images, labels.
    side: of an image, in what is said about them.
    label_name: name of the labels.
    png: what there is for each image, instead of it.
  """
  # Here, as it is not to be had where TensorFlow Datasets cannot read such files.
  from array_record.python import array_record_module
  from tensorflow_datasets.proto import tf_example_pb2

  folder.mkdir(parents=True)
  info = {'name': 'mnist', 'version': '3.0.1', 'fileFormat': 'array_record', 'splits': []}
  image_type = {'dtype': 'uint8', 'shape': {'dimensions': [str(side), str(side), '1']}}
  features = {
    'image': {'pythonClassName': f'{FEATURES}.image_feature.Image', 'image': image_type},
    label_name: {
      'pythonClassName': f'{FEATURES}.class_label_feature.ClassLabel',
      'classLabel': {'numClasses': '10'},
    },
  }
  for split, (images, labels) in splits.items():
    template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
    count = str(len(images))
    info['splits'].append(
      {'name': split, 'shardLengths': [count], 'numBytes': '9', 'filepathTemplate': template}
    )
    path = folder / f'mnist-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for image, label in zip(images, labels, strict=True):
      buffer = io.BytesIO()
      Image.fromarray(image[..., 0]).save(buffer, 'PNG')
      example = tf_example_pb2.Example()
      example.features.feature['image'].bytes_list.value.append(png or buffer.getvalue())
      example.features.feature[label_name].int64_list.value.append(int(label))
      writer.write(example.SerializeToString())
    writer.close()
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  features = {
    'pythonClassName': f'{FEATURES}.features_dict.FeaturesDict',
    'featuresDict': {'features': features},
  }
  (folder / 'features.json').write_text(json.dumps(features))
