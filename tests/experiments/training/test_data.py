"""Data sets, where they come from, what they are known by, and what is kept of them."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import cifar
from experiments.runtime import cache, data_files
from experiments.runtime.errors import UserError
from experiments.training import data, session
from tests import archives, configurations

ROOT = Path(__file__).parents[3]
# The first of data_batch_1 are a frog, two trucks, a deer, a car.
FIRST_LABELS = {
  'cifar10': ([6, 9, 9, 4, 1], [3, 8, 8, 0, 6]),
  'mnist': ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4]),
}
MEANS = {'cifar10': [0.4914, 0.4822, 0.4465], 'mnist': [0.1307]}


@pytest.fixture(scope='module')
def real(needs_data):
  """A data set in full, by its name, or a skip."""

  @functools.cache
  def load(name):
    needs_data(name)
    return data.load(name)

  return load


@pytest.mark.parametrize('name', ['mnist', 'cifar10'])
def test_real_data_are_the_published_ones_in_their_order(name, real):
  dataset = real(name)
  for split, labels in zip((dataset.train, dataset.test), FIRST_LABELS[name]):
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    assert split.labels[:5].tolist() == labels and set(split.labels) == set(range(10))
  assert 'tensorflow' not in sys.modules
  description = dataset.description
  assert description['train_images'] == {'mnist': 60_000, 'cifar10': 50_000}[name]
  assert description['test_images'] == 10_000
  assert description['train_mean'] == MEANS[name]
  assert description['published']['train']  # five MD5 sums of CIFAR-10, two of MNIST
  assert description['published']['test'] or name == 'cifar10'  # of which there are close copies


@pytest.mark.parametrize('name', ['mnist', 'cifar10'])
def test_archives_hold_what_a_folder_of_tensorflow_datasets_does(name, real, tmp_path):
  dataset = real(name)
  splits = {s: (getattr(dataset, s).images, getattr(dataset, s).labels) for s in ('train', 'test')}
  packed = archives.pack(name, archives.files_of(name, splits), compresslevel=0)
  archives.write(tmp_path / name, packed)
  read = data.load(name, tmp_path)
  assert read.digest == dataset.digest
  assert read.description == dataset.description and read.class_names == dataset.class_names
  np.testing.assert_array_equal(read.train.images, dataset.train.images)


def test_digits_are_the_1797_of_scikit_learn():
  digits = data.load('digits')
  assert digits.train.images.shape == (1297, 8, 8, 1)
  assert digits.test.images.shape == (500, 8, 8, 1)
  assert digits.train.images.max() == 255 and digits.train.images.dtype == np.uint8
  assert digits.description['published'] is None


def test_unknown_data_set():
  with pytest.raises(UserError, match=r'cifar100.*choose one of cifar10, mnist, digits'):
    data.load('cifar100')


def test_the_folder_is_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/me')
  monkeypatch.setenv('TFDS_DATA_DIR', 'here')
  assert data_files.folder() == tmp_path / 'here'
  assert data_files.folder('../x') == tmp_path.parent / 'x'
  assert data_files.folder('~/x') == Path('/home/me/x')
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert data_files.folder() == Path('/home/me/tensorflow_datasets')


def test_the_digest_is_that_of_the_content():
  digits = data.load('digits')
  assert digits.digest == data.load('digits').digest
  train, test = digits.train, digits.test
  for changed in (
    dataclasses.replace(digits, train=data.Split(train.images[::-1], train.labels)),
    dataclasses.replace(digits, train=data.Split(train.images, train.labels[::-1])),
    dataclasses.replace(digits, train=data.Split(train.images.reshape(-1, 4, 16, 1), train.labels)),
    dataclasses.replace(digits, test=data.Split(test.images, 9 - test.labels)),
    dataclasses.replace(digits, train=test, test=train),
  ):
    assert changed.digest != digits.digest


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
  """Writes a tiny MNIST in the order in which TensorFlow Datasets stores it."""
  pytest.importorskip('array_record.python.array_record_module')
  from tensorflow_datasets.core.hashing import Hasher

  archives.publish_tiny(monkeypatch)

  def write(seed):
    splits = {}
    for split, count in archives.COUNTS.items():
      images, labels = archives.random_split('mnist', split, seed)
      stored = sorted(range(count), key=Hasher(split).hash_key)
      splits[split] = images[stored], labels[stored]
    archives.write_tfds_mnist(tmp_path / 'mnist' / '3.0.1', splits)

  return write


def test_replaced_files_are_not_taken_from_the_cache(tiny_mnist, tmp_path, cache_dir):
  descriptions = []
  for seed in (0, 1):
    tiny_mnist(seed)
    for _ in range(2):  # the second time from the cache
      dataset = data.load('mnist', tmp_path)
      images, labels = archives.random_split('mnist', 'train', seed)
      np.testing.assert_array_equal(dataset.train.images, images)
      np.testing.assert_array_equal(dataset.train.labels, labels)
      descriptions.append(dataset.description)
    (tmp_path / 'mnist').rename(tmp_path / f'old{seed}')
  assert len(list(cache_dir.glob('mnist-*.npz'))) == 2
  assert descriptions[0] == descriptions[1] and descriptions[2] == descriptions[3]
  assert descriptions[0]['published'] == {'train': True, 'test': True}
  assert descriptions[2]['published'] == {'train': False, 'test': False}


def test_archives_come_before_a_folder_of_tensorflow_datasets(tiny_mnist, tmp_path, cache_dir):
  tiny_mnist(1)
  archives.write(tmp_path / 'mnist', archives.tiny('mnist'))
  assert data.load('mnist', tmp_path).description['published']['train']
  (tmp_path / 'mnist' / 't10k-labels-idx1-ubyte.gz').unlink()
  assert not data.load('mnist', tmp_path).description['published']['train']


def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch, capsys):
  archives.publish_tiny(monkeypatch)
  changes = {'data.name': 'mnist', 'data.train_examples': 0, 'batch_size': 2}
  config = configurations.frozen(cifar, 'wn,tiny', changes)
  steps = []

  def run(workdir='run'):
    dataset = data.load('mnist', tmp_path)
    with session.open(config, tmp_path / workdir, dataset.description, 1, best='test/error'):
      steps.append(dataset.digest)
      (tmp_path / workdir / 'checkpoints' / '1').mkdir(parents=True, exist_ok=True)

  archives.write(tmp_path / 'mnist', archives.tiny('mnist'))
  run()
  run()
  assert f'data: mnist, digest {steps[0][:12]}\n' in capsys.readouterr().out
  archives.write(tmp_path / 'mnist', archives.tiny('mnist', seed=1))
  with pytest.raises(UserError, match=rf'{steps[0][:12]}, and mnist is .*; restore the data, or'):
    run()
  run('another')
  assert 'not the published files: train, test' in capsys.readouterr().out
  assert len(set(steps)) == 2 and len(steps) == 3
  archives.write(tmp_path / 'mnist', archives.tiny('mnist'))
  run()
  (tmp_path / 'run' / 'data.json').unlink()
  with pytest.raises(UserError, match='run of an older version'):
    run()


TENSORFLOW = """
import pathlib, sys
sys.modules['tensorflow'] = None  # its import fails, as if it were not installed
from experiments import download
from experiments.runtime import published
from experiments.training import data
from tests import archives, configurations
published.SOURCES = archives.tiny_sources()
for name in ('cifar10', 'mnist'):
  archives.write(pathlib.Path(sys.argv[1]), archives.tiny(name))
  download.download(name, sys.argv[2], [sys.argv[1]])
  data.load(name, sys.argv[2]).description
assert 'tensorflow_datasets' not in sys.modules
"""


def test_neither_download_nor_archives_need_tensorflow(tmp_path):
  command = [sys.executable, '-c', TENSORFLOW, tmp_path / 'given', tmp_path / 'data']
  subprocess.run(command, cwd=ROOT, check=True)


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
  with pytest.warns(UserWarning, match='computed again'):
    assert len(cache.cached('thing', {}, arrays)['a']) == 1000
