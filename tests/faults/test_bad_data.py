"""Wrong data folders. One line, exit code 2, nothing written, in the cache neither."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import archives

# Not installed where TensorFlow Datasets cannot read such files.
pytest.importorskip('array_record.python.array_record_module')


@pytest.fixture
def mnist(tmp_path):
  """Writes a folder as TensorFlow Datasets does, but with only a few images; returns it."""

  def write(side=28, label=7, counts=(3, 2), **kwargs):
    folder = tmp_path / 'data' / 'mnist' / '3.0.1'
    split = lambda count: (np.zeros((count, side, side, 1), np.uint8), [label] * count)
    train, test = counts
    splits = {'train': split(train), 'test': split(test)}
    archives.write_tfds_mnist(folder, splits, side=side, **kwargs)
    return folder

  return write


# What is done to the folder, by a shell in it, and what the line then says.
DAMAGES = [
  ('rm -r ../../../data', '/data; set TFDS_DATA_DIR or --data_dir to the folder'),
  ('cd ../../..; rm -r data; touch data', '/data; set TFDS_DATA_DIR or --data_dir'),
  ('rm -r ../../mnist', '/data; set TFDS_DATA_DIR or --data_dir'),
  ('rm -r ../3.0.1', 'mnist is not in '),
  ('mv ../../mnist ../../cifar10', 'mnist is not in '),
  ('rm dataset_info.json', 'mnist is not in '),
  ('truncate -s 99 dataset_info.json', 'dataset_info.json is damaged; copy it again'),
  ('truncate -s 0 dataset_info.json', 'dataset_info.json is damaged; copy it again'),
  ('echo [1] > dataset_info.json', 'dataset_info.json is damaged; copy it again'),
  (r"printf '\xff\xfe' > dataset_info.json", 'dataset_info.json is damaged; copy it again'),
  ('rm dataset_info.json; mkdir dataset_info.json', 'dataset_info.json (Is a directory)'),
  ('sed -i s/mnist/cifar10/ dataset_info.json', 'holds the data set cifar10; copy or download'),
  ('sed -i s/array_record/tfrecord/ dataset_info.json', 'which only TensorFlow reads; download'),
  ('sed -i s/train/validation/ dataset_info.json', 'cannot read'),
  ('rm features.json', 'features.json is missing or damaged'),
  ('truncate -s 99 features.json', 'features.json is missing or damaged'),
  ('rm mnist-train*', 'a file is missing or truncated: copy or download the folder again'),
  ('truncate -s 99 mnist-train*', 'a file is missing or truncated'),
  ('truncate -s 0 mnist-train*', 'a file is missing or truncated'),
  ('truncate -s 0 mnist-test*', 'a file is missing or truncated'),
  ('cp features.json mnist-train*', 'a file is missing or truncated'),
]


@pytest.mark.parametrize('damage, message', DAMAGES)
def test_a_damaged_folder_is_refused(damage, message, mnist, refused):
  subprocess.run(['bash', '-c', damage], cwd=mnist(), check=True)
  refused('draw --config=configs/draw.py:wn --data_dir=data', message)


@pytest.mark.parametrize(
  'content, message',
  [
    ({}, 'holds uint8 images (3, 28, 28, 1) for train, which should be uint8 (60000, 28, 28, 1)'),
    ({'side': 32}, 'holds uint8 images (3, 32, 32, 1) for train, which should be uint8 (60000, '),
    ({'png': b'no PNG'}, 'cannot read'),
    ({'label_name': 'class'}, 'cannot read'),
  ],
)
def test_other_content_is_refused(content, message, mnist, refused):
  mnist(**content)
  refused('vae --config=configs/vae.py:mnist-iaf-wn --data_dir=data', message)


def test_labels_that_are_no_classes_are_refused(mnist, refused, monkeypatch):
  archives.publish_tiny(monkeypatch)
  mnist(label=10, counts=archives.COUNTS.values())
  refused('vae --config=configs/vae.py:mnist-iaf-wn --data_dir=data', 'labels outside 0 to 9')
  images, labels = archives.random_split('mnist', 'test')
  files = archives.files_of('mnist', {'test': (images, labels + 10)})
  archives.write(Path('data/mnist'), archives.tiny('mnist') | archives.pack('mnist', files))
  refused('vae --config=configs/vae.py:mnist-iaf-wn --data_dir=data', '(there is a label 1')


@pytest.mark.parametrize(
  'command', ['cifar --config=configs/cifar.py:wn', 'draw --config=configs/draw.py:wn']
)
def test_a_folder_of_another_data_set_is_refused(command, mnist, refused):
  mnist().parent.rename(Path('data/other'))
  refused(f'{command} --data_dir=data', '/data; set TFDS_DATA_DIR')


def test_a_folder_that_an_interrupted_download_left_empty(refused):
  Path('data/cifar10/.download').mkdir(parents=True)
  Path('data/cifar10/.download.lock').touch()
  refused('cifar --config=configs/cifar.py:wn --data_dir=data', 'cifar10 is not in ')


@pytest.mark.parametrize(
  'damage, message',
  [
    ('truncate -s 99 *images*', 'train-images-idx3-ubyte.gz is damaged (Compressed file ended'),
    ('truncate -s 0 t10k-labels*', 'holds other test data than mnist (its header'),
    ('cp t10k-images* train-images-idx3-ubyte.gz', 'holds other train data than mnist (its header'),
    ('echo x > train-labels-idx1-ubyte.gz', 'train-labels-idx1-ubyte.gz is damaged (Not a gzipped'),
    ('rm train-labels*', 'mnist is not in '),
    ('rm train-labels*; mkdir train-labels-idx1-ubyte.gz', 'mnist is not in '),
  ],
)
def test_damaged_archives_of_mnist(damage, message, refused, monkeypatch):
  archives.publish_tiny(monkeypatch)
  archives.write(Path('data/mnist'), archives.tiny('mnist'))
  subprocess.run(['bash', '-c', damage], cwd='data/mnist', check=True)
  refused('draw --config=configs/draw.py:wn --data_dir=data', message)


@pytest.mark.parametrize(
  'damage, message',
  [
    ('truncate -s 9999 *', 'cifar-10-binary.tar.gz is damaged (Compressed file ended'),
    ('printf x | dd of=FILE bs=1 seek=9000 conv=notrunc', 'cifar-10-binary.tar.gz is damaged ('),
    ('echo text | gzip > FILE', 'cifar-10-binary.tar.gz is damaged ('),
    ('tar -czf FILE -C / etc/hostname', 'is damaged (data_batch_1.bin is missing)'),
  ],
)
def test_damaged_archives_of_cifar10(damage, message, refused, monkeypatch):
  archives.publish_tiny(monkeypatch)
  archives.write(Path('data/cifar10'), archives.tiny('cifar10'))
  command = damage.replace('FILE', archives.CIFAR)
  subprocess.run(['bash', '-c', command], cwd='data/cifar10', check=True, capture_output=True)
  refused('cifar --config=configs/cifar.py:wn --data_dir=data', message)
