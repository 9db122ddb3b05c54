"""Reading runs into a table, with all that can be wrong with their files."""

import json

import numpy as np
import pytest

from experiments import results
from experiments.runtime import nonfinite
from experiments.runtime.errors import UserError

CONFIG = {
  'experiment': 'cifar',
  'protocol': 'tiny',
  'variant': {'parameterization': 'wn'},
  'seed': 3,
  'optimizer': {'learning_rate': 0.003},
  'epochs': 1,
}
DATA = {'name': 'digits', 'digest': '01ab', 'train_images': 7, 'test_images': 3, 'published': None}
ROWS = [
  {'step': 5, 'epoch': 0.5, 'seconds': 1.5, 'train/loss': 2.0},
  {'step': 10, 'epoch': 1.0, 'seconds': 3.0, 'test/error': 0.25},
]


def changed(**changes):
  """The summary of a run whose config has other values, as JSON."""
  return json.dumps({'config': CONFIG | changes}).encode()


def write_run(path, rows=ROWS, config=CONFIG, finished=True):
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(config))
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  if finished:
    (path / 'summary.json').write_text(json.dumps({'config': config, 'data': DATA}))
  return path


def test_a_row_for_each_row_with_the_config_beside_it(tmp_path):
  write_run(tmp_path / 'a')
  variant = {'dataset': 'mnist', 'posterior': 'iaf', 'parameterization': 'plain'}
  other = CONFIG | {'variant': variant, 'optimizer': {'learning_rate': 0.01}}
  write_run(tmp_path / 'deep' / 'b', ROWS[:1], other, finished=False)
  table = results.load(tmp_path)
  assert list(table) == [
    'run', 'experiment', 'variant', 'protocol', 'seed', 'learning_rate', 'finished', 'step',
    'epoch', 'seconds', 'train/loss', 'test/error',
  ]  # fmt: skip
  assert list(table['run']) == [str(tmp_path / 'a')] * 2 + [str(tmp_path / 'deep' / 'b')]
  assert list(table['variant']) == ['wn', 'wn', 'mnist-iaf-plain']
  assert list(table['finished']) == [True, True, False]
  assert (table['seed'].dtype.kind, table['step'].dtype.kind) == ('i', 'i')
  np.testing.assert_array_equal(table['step'], [5, 10, 5])
  np.testing.assert_array_equal(table['train/loss'], [2, np.nan, 2])
  np.testing.assert_array_equal(table['test/error'], [np.nan, 0.25, np.nan])
  np.testing.assert_array_equal(table['learning_rate'], [0.003, 0.003, 0.01])


def test_one_path_or_several_and_no_run_twice(tmp_path):
  a, b = write_run(tmp_path / 'a'), write_run(tmp_path / 'b', config=CONFIG | {'seed': 4})
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
    ('metrics.jsonl', b'{"step": 1, "epoch": "x", "seconds": 1}\n', 'line 1: not a row of metrics'),
    ('summary.json', b'', 'summary.json is damaged'),
    ('summary.json', b'{"config": ', 'summary.json is damaged'),
    ('summary.json', b'\xff\xfe', 'summary.json is damaged'),
    ('summary.json', b'[]', 'summary.json is not from a run'),
    ('summary.json', b'{"name": "foreign"}', 'summary.json is missing or is not from a run'),
    ('metrics.jsonl', 'a directory', 'cannot be read'),
    ('summary.json', b'{"config": "wn"}', 'summary.json is missing or is not from a run'),
    ('summary.json', changed(experiment='../x'), 'summary.json is missing or is not from a run'),
    ('summary.json', changed(seed='1'), 'summary.json is missing or is not from a run'),
    (
      'summary.json',
      changed(variant={'game': 'x'}),
      'summary.json is missing or is not from a run',
    ),
    (
      'summary.json',
      changed(variant={'parameterization': '..'}),
      'summary.json is missing or is not from a run',
    ),
    ('summary.json', changed(optimizer={}), 'summary.json is missing or is not from a run'),
    ('summary.json', changed(variant='wn'), 'is a run of an older version, whose format'),
    (
      'summary.json',
      json.dumps({'config': CONFIG, 'data': {'name': 3}}).encode(),
      'summary.json does not describe the data of a run',
    ),
    (
      'summary.json',
      json.dumps({'config': CONFIG, 'data': DATA | {'train_images': 'all'}}).encode(),
      'summary.json does not describe the data of a run',
    ),
    ('summary.json', b'{"config": {"seed": 1}}', 'summary.json is missing or is not from a run'),
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


def test_what_a_run_says_of_itself(tmp_path):
  run = results.read(write_run(tmp_path / 'a'))
  assert (run.variant, run.parameterization, run.learning_rate) == ('wn', 'wn', 0.003)
  assert run.is_finished and run.data == DATA and run.divergence is None
  path = write_run(tmp_path / 'b', finished=False)
  assert results.read(path).data is None
  (path / 'data.json').write_text(json.dumps(DATA))  # which is there from the start
  assert results.read(path).data == DATA


@pytest.mark.parametrize(
  'text', ['', 'a line\n', 'error: the disk is full\n', 'loss is nan at step 3']
)
def test_a_log_that_tells_of_no_divergence(text, tmp_path):
  path = write_run(tmp_path / 'a', finished=False)
  (tmp_path / 'logs').mkdir()
  (tmp_path / 'logs' / 'a.log').write_text(text)
  assert results.read(path).divergence is None


@pytest.mark.parametrize('rows', [ROWS, []])
def test_a_run_that_diverged(rows, tmp_path):
  path = write_run(tmp_path / 'a', rows=rows, finished=False)
  (tmp_path / 'logs').mkdir()
  error = nonfinite.NotFinite('train/loss', float('nan'), 7)
  (tmp_path / 'logs' / 'a.log').write_text(f'error: {error}\nbuffered output\n')
  run = results.read(path)
  assert run.divergence == 'train/loss is nan at step 7' and len(run.metrics) == len(rows)
  (path / 'summary.json').write_text(json.dumps({'config': CONFIG, 'data': DATA}))
  if rows:
    assert results.read(path).divergence is None  # it was trained to its end after all


def test_no_directory_and_no_runs(tmp_path):
  with pytest.raises(UserError, match='there is no directory'):
    results.load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='holds no runs'):
    results.load(tmp_path)


def test_copies_are_left_out(tmp_path, capsys):
  """As in a report that lies among the runs, made while one of them went on."""
  (write_run(tmp_path / 'run') / 'checkpoints').mkdir()
  write_run(tmp_path / 'report' / 'finished')
  write_run(tmp_path / 'report' / 'earlier', ROWS[:1], finished=False)
  write_run(tmp_path / 'again', [ROWS[0] | {'seconds': 1.7}, ROWS[1]])
  write_run(tmp_path / 'fork', [ROWS[0], ROWS[1] | {'test/error': 0.5}])
  table = results.load(tmp_path)
  kept = ('again', 'fork', 'run')
  assert set(table['run']) == {str(tmp_path / name) for name in kept}
  assert f'earlier is a copy of {tmp_path}/' in capsys.readouterr().err
