"""What of the metrics a terminal shows, and TensorBoard."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from experiments.runtime import metrics


@pytest.mark.parametrize(
  'name, expected',
  [
    ('test/kl_12', True),
    ('diagnostics/encoder.ii/v_norm', True),
    ('test/kl', False),
    ('test/nll_bound', False),
    ('test/bits_per_dim', False),
  ],
)
def test_parts_of_another_metric_are_not_shown(name, expected, capsys):
  assert metrics.is_part(name) == expected
  metrics.Progress(Path('run'), 1, 0, 1).epoch(1, 0.0, {name: 1.5})
  assert (name in capsys.readouterr().out) != expected


def test_errors_are_shown_in_percent():
  shown = metrics.describe({'test/error': 0.0412, 'test/loss': 0.25, 'test/kl_3': 1.0})
  assert shown == 'test/error 4.12 %  test/loss 0.25'


def test_tensorboard_has_the_rows_and_the_pictures(tmp_path):
  log = metrics.MetricsLog(tmp_path)
  log.write(1, 0.5, {'train/loss': 2.0})
  log.close()
  Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / 'filters.png')
  metrics.write_pictures(tmp_path, step=7)
  values = {
    value.tag: (event.step, value)
    for file in (tmp_path / 'tensorboard').iterdir()
    for event in events(file.read_bytes())
    for value in event.summary.value
  }
  step, loss = values['train/loss']
  assert step == 1 and loss.simple_value == 2.0
  step, picture = values['pictures/filters']
  assert step == 7 and (picture.image.height, picture.image.width) == (3, 5)
  assert picture.image.encoded_image_string == (tmp_path / 'filters.png').read_bytes()


def events(content):
  """The events in a file: records of length, checksum, data, checksum."""
  while content:
    (size,) = struct.unpack('<Q', content[:8])
    yield Event.FromString(content[12 : 12 + size])
    content = content[16 + size :]
