"""Data sets, where they come from, and what the user is told if they don't."""

import hashlib

import numpy as np
import pytest

from experiments.training import cache, data, download
from experiments.training.errors import UserError

COUNTS = {'cifar10': (50_000, 10_000), 'mnist': (60_000, 10_000)}
SHAPES = {'cifar10': (32, 32, 3), 'mnist': (28, 28, 1)}


def prepared_folder(name):
  """The folder of a data set on this machine, or a skip."""
  folders = sorted((data.default_data_dir() / name).glob('*/dataset_info.json'))
  if not folders:
    pytest.skip(f'{name} is not prepared in {data.default_data_dir()} (set TFDS_DATA_DIR)')
  return folders[-1].parent


@pytest.mark.parametrize('name', ['mnist', 'cifar10'])
def test_real_data_has_the_right_counts_shapes_and_labels(name, cache_dir):
  prepared_folder(name)
  first = data.load(name)
  assert (len(first.train), len(first.test)) == COUNTS[name]
  for split in (first.train, first.test):
    assert split.images.dtype == np.uint8 and split.images.shape[1:] == SHAPES[name]
    assert split.labels.dtype == np.int32 and set(split.labels) == set(range(10))
  assert len(first.class_names) == 10
  assert len(list(cache_dir.glob(f'{name}-*.npz'))) == 1
  again = data.load(name)  # from the cache
  np.testing.assert_array_equal(first.train.images, again.train.images)
  np.testing.assert_array_equal(first.test.labels, again.test.labels)
  assert first.class_names == again.class_names


def test_mnist_is_exact(cache_dir):
  """Labels, in the order in which TensorFlow Datasets stores them."""
  prepared_folder('mnist')
  mnist = data.load('mnist')
  assert mnist.train.labels[:5].tolist() == [4, 1, 0, 7, 8]
  assert np.bincount(mnist.train.labels).tolist()[:3] == [5923, 6742, 5958]
  assert hashlib.sha256(mnist.test.images).hexdigest().startswith('a85d8dffc6063fb8')


def test_digits_are_the_1797_of_scikit_learn():
  digits = data.load('digits')
  assert digits.train.images.shape == (1297, 8, 8, 1)
  assert digits.test.images.shape == (500, 8, 8, 1)
  assert digits.train.images.max() == 255 and digits.train.images.dtype == np.uint8


def test_unknown_data_set():
  with pytest.raises(UserError, match=r'cifar100.*choose one of cifar10, mnist, digits'):
    data.load('cifar100')


def test_failed_download_is_one_message(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  def fail(*args, **kwargs):
    raise ConnectionError('Name or service not known')

  monkeypatch.setattr(tfds, 'builder', fail)
  with pytest.raises(UserError, match=r'cannot download cifar10.*Name or service not known.*copy'):
    download.download('cifar10', str(tmp_path))


def arrays():
  return {'a': np.arange(1000), 'names': np.array(['x', 'y'])}


def test_cache_computes_once_per_key(cache_dir):
  calls = []
  compute = lambda: calls.append(1) or arrays()
  for key in ({'v': 1}, {'v': 1}, {'v': 2}):
    result = cache.cached('thing', key, compute)
    np.testing.assert_array_equal(result['a'], np.arange(1000))
    assert result['names'].tolist() == ['x', 'y']
  assert len(calls) == 2
  assert len(list(cache_dir.iterdir())) == 2  # and no temporary files


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'flipped'])
def test_corrupt_cache_file_is_reported_and_left_alone(cache_dir, damage):
  cache.cached('thing', {}, arrays)
  (path,) = cache_dir.iterdir()
  content = bytearray(path.read_bytes())
  if damage == 'flipped':
    content[len(content) // 2] ^= 0xFF
  else:
    del content[{'truncated': len(content) // 2, 'empty': 0}[damage] :]
  path.write_bytes(content)
  with pytest.raises(UserError, match=r'corrupt cache file .*thing-.*delete it'):
    cache.cached('thing', {}, arrays)
  assert path.read_bytes() == content


def test_interrupted_computation_leaves_nothing(cache_dir, monkeypatch):
  def fail(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(cache.np, 'savez', fail)
  with pytest.raises(KeyboardInterrupt):
    cache.cached('thing', {}, arrays)
  assert not list(cache_dir.iterdir())


def test_unwritable_cache_is_a_warning(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  with pytest.warns(UserWarning, match='computed anew'):
    assert len(cache.cached('thing', {}, arrays)['a']) == 1000
