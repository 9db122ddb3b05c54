"""Reading runs into a table, with all that can be wrong with their files."""

import json

import numpy as np
import pytest

from experiments import results
from experiments.training.errors import UserError

CONFIG = {'experiment': 'cifar', 'variant': 'wn', 'protocol': 'tiny', 'seed': 3}
ROWS = [
  {'step': 5, 'epoch': 0.5, 'seconds': 1.5, 'train/loss': 2.0},
  {'step': 10, 'epoch': 1.0, 'seconds': 3.0, 'test/error': 0.25},
]


def write_run(path, rows=ROWS, config=CONFIG, finished=True):
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(config))
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  if finished:
    (path / 'summary.json').write_text(json.dumps({'config': config, 'final': rows[-1]}))
  return path


def test_a_row_for_each_row_with_the_config_beside_it(tmp_path):
  write_run(tmp_path / 'a')
  other = CONFIG | {'variant': 'plain', 'learning_rate': 0.01}
  write_run(tmp_path / 'deep' / 'b', ROWS[:1], other, finished=False)
  table = results.load(tmp_path)
  assert list(table) == [
    'run', 'experiment', 'variant', 'protocol', 'seed', 'learning_rate', 'finished', 'step',
    'epoch', 'seconds', 'train/loss', 'test/error',
  ]  # fmt: skip
  assert list(table['run']) == [str(tmp_path / 'a')] * 2 + [str(tmp_path / 'deep' / 'b')]
  assert list(table['variant']) == ['wn', 'wn', 'plain']
  assert list(table['finished']) == [True, True, False]
  assert (table['seed'].dtype.kind, table['step'].dtype.kind) == ('i', 'i')
  np.testing.assert_array_equal(table['step'], [5, 10, 5])
  np.testing.assert_array_equal(table['train/loss'], [2, np.nan, 2])
  np.testing.assert_array_equal(table['test/error'], [np.nan, 0.25, np.nan])
  np.testing.assert_array_equal(table['learning_rate'], [np.nan, np.nan, 0.01])


def test_one_path_or_several_and_no_run_twice(tmp_path):
  a, b = write_run(tmp_path / 'a'), write_run(tmp_path / 'b')
  assert len(results.load(str(a))) == 2
  assert len(results.load([a, b, tmp_path, tmp_path / 'a' / '..'])) == 4


def test_recorded_runs_have_their_config_in_the_summary(tmp_path):
  (write_run(tmp_path / 'a') / 'config.json').unlink()
  assert set(results.load(tmp_path)['seed']) == {3}


def test_a_last_line_that_is_being_written_is_left_out(tmp_path):
  with (write_run(tmp_path / 'a', finished=False) / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 15, "epo')
  assert list(results.load(tmp_path)['step']) == [5, 10]


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('metrics.jsonl', b'', 'metrics.jsonl has no rows'),
    ('metrics.jsonl', None, 'metrics.jsonl has no rows'),
    ('metrics.jsonl', b'{"step": 1\n{}\n{}\n', 'metrics.jsonl, line 1'),
    ('metrics.jsonl', b'\xff\x00\n\n\n', 'metrics.jsonl, line 1'),
    ('metrics.jsonl', b'{"step": 1, "epoch": "x", "seconds": 1}\n', 'line 1: no row of metrics'),
    ('summary.json', b'', 'summary.json is damaged'),
    ('summary.json', b'{"config": ', 'summary.json is damaged'),
    ('summary.json', b'\xff\xfe', 'summary.json is damaged'),
    ('summary.json', b'[]', 'summary.json is not of a run'),
    ('summary.json', b'{"name": "foreign"}', 'summary.json is missing or is not of a run'),
    ('metrics.jsonl', 'a directory', 'cannot be read'),
    (
      'summary.json',
      b'{"config": {"experiment": "../x", "variant": "wn", "protocol": "tiny", "seed": 1}}',
      'summary.json is missing or is not of a run',
    ),
    (
      'summary.json',
      b'{"config": {"experiment": "cifar", "variant": "wn", "protocol": "tiny", "seed": "1"}}',
      'summary.json is missing or is not of a run',
    ),
    ('summary.json', b'{"config": {"seed": 1}}', 'summary.json is missing or is not of a run'),
  ],
)
def test_a_damaged_run_is_named_and_the_rest_is_loaded(name, content, message, tmp_path, capsys):
  write_run(tmp_path / 'good')
  path = write_run(tmp_path / 'bad') / name
  path.unlink()
  if content == 'a directory':
    path.mkdir()
  elif content is not None:
    path.write_bytes(content)
  table = results.load(tmp_path)
  assert set(table['run']) == {str(tmp_path / 'good')}
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('left out: ') and f'{tmp_path}/bad' in line and message in line
  with pytest.raises(UserError, match=r'^no runs in .*bad\.$'):
    results.load(tmp_path / 'bad')


def test_no_directory_and_no_runs(tmp_path):
  with pytest.raises(UserError, match='there is no directory'):
    results.load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='holds no runs'):
    results.load(tmp_path)
