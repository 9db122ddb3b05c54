"""Wrong data folders. One line, exit code 2, nothing written, in the cache neither."""

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

# Of no use, and not installed, where TensorFlow Datasets cannot read such files.
array_record = pytest.importorskip('array_record.python.array_record_module')

FEATURES = 'tensorflow_datasets.core.features'


@pytest.fixture
def mnist(tmp_path):
  """Writes a folder as TensorFlow Datasets does, but with only five images; returns it."""

  def write(side=28, label=7, label_name='label', image=None):
    folder = tmp_path / 'data' / 'mnist' / '3.0.1'
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
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(buffer, 'PNG')
    example = tf_example_pb2.Example()
    example.features.feature['image'].bytes_list.value.append(image or buffer.getvalue())
    example.features.feature[label_name].int64_list.value.append(label)
    for split, count in (('train', 3), ('test', 2)):
      template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
      info['splits'].append(
        {'name': split, 'shardLengths': [str(count)], 'numBytes': '9', 'filepathTemplate': template}
      )
      path = folder / f'mnist-{split}.array_record-00000-of-00001'
      writer = array_record.ArrayRecordWriter(str(path), 'group_size:1')
      for _ in range(count):
        writer.write(example.SerializeToString())
      writer.close()
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    (folder / 'features.json').write_text(
      json.dumps(
        {
          'pythonClassName': f'{FEATURES}.features_dict.FeaturesDict',
          'featuresDict': {'features': features},
        }
      )
    )
    return folder

  return write


# What is done to the folder, by a shell in it, and what the line then says.
DAMAGES = [
  ('rm -r ../../../data', 'no data folder data; set TFDS_DATA_DIR or --data_dir to the folder'),
  ('cd ../../..; rm -r data; touch data', 'no data folder data; set TFDS_DATA_DIR or --data_dir'),
  ('rm -r ../../mnist', 'mnist is not in data; set TFDS_DATA_DIR or --data_dir'),
  ('rm -r ../3.0.1', 'mnist is not in data'),
  ('mv ../../mnist ../../cifar10', 'mnist is not in data'),
  ('rm dataset_info.json', 'mnist is not in data'),
  ('truncate -s 99 dataset_info.json', 'dataset_info.json is damaged; copy it anew'),
  ('truncate -s 0 dataset_info.json', 'dataset_info.json is damaged; copy it anew'),
  ('echo [1] > dataset_info.json', 'dataset_info.json is damaged; copy it anew'),
  (r"printf '\xff\xfe' > dataset_info.json", 'dataset_info.json is damaged; copy it anew'),
  ('rm dataset_info.json; mkdir dataset_info.json', 'Is a directory'),
  ('sed -i s/mnist/cifar10/ dataset_info.json', 'holds the data set cifar10; copy or download'),
  ('sed -i s/array_record/tfrecord/ dataset_info.json', 'which only TensorFlow reads; download it'),
  ('sed -i s/train/validation/ dataset_info.json', 'cannot read'),
  ('rm features.json', 'features.json is missing or damaged'),
  ('truncate -s 99 features.json', 'features.json is missing or damaged'),
  ('rm mnist-train*', 'a file is missing or truncated: copy or download the folder anew'),
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
    ({'image': b'no PNG'}, 'cannot read'),
    ({'label_name': 'class'}, 'cannot read'),
  ],
)
def test_other_content_is_refused(content, message, mnist, refused):
  mnist(**content)
  refused('vae --config=configs/vae.py:mnist-iaf-wn --data_dir=data', message)


def test_labels_that_are_no_classes_are_refused(mnist, refused, monkeypatch):
  monkeypatch.setattr(
    'experiments.training.data._SHAPES',
    {'mnist': {'train': (3, 28, 28, 1), 'test': (2, 28, 28, 1)}},
  )
  mnist(label=10)
  refused('vae --config=configs/vae.py:mnist-iaf-wn --data_dir=data', 'labels that are no classes')


@pytest.mark.parametrize(
  'command', ['cifar --config=configs/cifar.py:wn', 'draw --config=configs/draw.py:wn']
)
def test_a_folder_of_another_data_set_is_refused(command, mnist, refused):
  mnist().parent.rename(Path('data/other'))
  refused(f'{command} --data_dir=data', ' is not in data; set TFDS_DATA_DIR')


def test_downloads_are_not_mixed_with_other_formats(mnist, refused):
  info = mnist() / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  refused('download mnist --data_dir=data', 'tfrecord')


def test_a_download_needs_a_folder(refused, tmp_path):
  (tmp_path / 'notes.txt').write_text('')
  refused('download mnist --data_dir=notes.txt', 'cannot download mnist')
