"""The report on made-up runs, and the quickstart from end to end."""

import csv
import json

import matplotlib.image
import numpy as np
import pytest

from configs import cifar
from experiments.training.errors import UserError
from scripts import quickstart, report

# Test error in % after each of two epochs.
ERRORS = {('plain', 0): (50, 40), ('plain', 1): (60, 44), ('wn', 0): (30, 20)}


@pytest.fixture
def runs(tmp_path):
  paths = []
  for (variant, seed), errors in ERRORS.items():
    path = tmp_path / 'runs' / variant / str(seed)
    path.mkdir(parents=True)
    config = cifar.get_config(f'{variant},scaled').to_dict() | {'seed': seed, 'epochs': 2}
    summary = {'config': config, 'seed': seed, 'final': {'step': 1000}}
    (path / 'summary.json').write_text(json.dumps(summary))
    rows = [{'step': 1, 'epoch': 0.5, 'seconds': 1.0, 'train/loss': 1.0}]
    for epoch, error in enumerate(errors, start=1):
      rows.append({'step': 2, 'epoch': epoch, 'seconds': 2.0, 'test/error': error / 100})
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    paths.append(path)
  return paths


def test_table_has_mean_standard_error_and_the_papers_value(runs):
  header, _, plain, wn = report.final_table(report.load(runs[::-1])).splitlines()
  assert header == '| parameterisation | seeds | epoch 1 | epoch 2 | paper, 200 epochs |'
  # Standard error of two values: |difference| / 2.
  assert plain == '| `plain` | 2 | 55.00 ± 5.00 | 42.00 ± 2.00 | 8.43 |'
  assert wn == '| `wn` | 1 | 30.00 | 20.00 | 8.46 |'


def test_recorded_files(runs, tmp_path):
  out = tmp_path / 'results'
  loaded = report.load(runs)
  report.record(loaded, out)
  report.write(loaded, out, 'A note.')
  for (variant, seed), path in zip(ERRORS, runs, strict=True):
    for name in ('metrics.jsonl', 'summary.json'):
      recorded = out / variant / f'seed{seed}' / name
      assert recorded.read_bytes() == (path / name).read_bytes()
  with (out / 'test_error.csv').open() as file:
    rows = list(csv.reader(file))
  assert rows == [
    ['epoch', 'plain/seed0', 'plain/seed1', 'wn/seed0'],
    ['1', '50.00', '60.00', '30.00'],
    ['2', '40.00', '44.00', '20.00'],
  ]
  assert 'A note.' in (out / 'table.md').read_text()
  assert matplotlib.image.imread(out / 'learning_curves.png').shape[:2] == (600, 900)
  again = report.load([out / 'plain' / 'seed0', out / 'wn' / 'seed0'])  # results can be read again
  report.record(again, out)
  assert len(again) == 2


def step_times(path, **changes):
  row = {'framework': 'jax', 'dtype': 'float32', 'mode': 'winograd', 'width': 32, 'batch': 100}
  seconds = {'plain': 0.12, 'wn': 0.24}
  rows = [row | {'variant': v, 'seconds': s} | changes for v, s in seconds.items()]
  path.write_text(json.dumps({'rows': rows}))
  return path


def test_error_against_time_takes_the_step_times_of_a_benchmark(runs, tmp_path):
  loaded = report.load(runs)
  seconds = report.read_step_seconds(step_times(tmp_path / 'steps.json'), loaded)
  assert seconds == {'plain': 0.12, 'wn': 0.24}
  by_epoch, by_time = report.learning_curves(loaded, seconds).axes
  np.testing.assert_allclose(by_epoch.lines[0].get_xdata(), [1, 2])
  np.testing.assert_allclose(by_time.lines[0].get_xdata(), [1, 2])  # 500 steps of 0.12 s: a minute
  np.testing.assert_allclose(by_time.lines[1].get_xdata(), [2, 4])
  assert 'median time of a step' in report.write(loaded, tmp_path, step_seconds=seconds)


def test_step_times_of_another_size_are_refused(runs, tmp_path):
  loaded = report.load(runs)
  with pytest.raises(UserError, match='has no step time for plain, float32, winograd, 32, 100'):
    report.read_step_seconds(step_times(tmp_path / 'x.json', width=96), loaded)
  (tmp_path / 'y.json').write_text('[]')
  with pytest.raises(UserError, match='does not hold the results of a benchmark'):
    report.read_step_seconds(tmp_path / 'y.json', loaded)
  with pytest.raises(UserError, match='there is no file'):
    report.read_step_seconds(tmp_path / 'z.json', loaded)


def test_caption_states_the_scale_down(runs):
  block = report.write(report.load(runs), runs[0].parent)
  assert 'width 32 (paper: 96), 2 epochs (paper: 200)' in block


def test_readme_block_is_replaced_between_its_markers(tmp_path):
  readme = tmp_path / 'README.md'
  readme.write_text('before\n<!-- results -->\nold\n<!-- /results -->\nafter\n')
  for _ in range(2):
    report.replace_block(readme, 'new')
    expected = 'before\n<!-- results -->\n\nnew\n\n<!-- /results -->\nafter\n'
    assert readme.read_text() == expected
  readme.write_text('no markers')
  with pytest.raises(UserError, match='has no lines'):
    report.replace_block(readme, 'new')


def test_unfinished_run_is_named(runs):
  (runs[1] / 'summary.json').unlink()
  with pytest.raises(UserError, match=r'plain/1 holds no finished run'):
    report.load(runs)


def test_damaged_and_incomplete_runs_are_named(runs):
  metrics = runs[0] / 'metrics.jsonl'
  metrics.write_text(''.join(metrics.read_text().splitlines(keepends=True)[:-1]))
  with pytest.raises(UserError, match=r'plain/0/metrics\.jsonl lacks evaluations'):
    report.load(runs)
  (runs[1] / 'summary.json').write_text('{')
  with pytest.raises(UserError, match=r'plain/1/summary\.json is damaged'):
    report.load(runs[1:])


def test_a_run_is_not_counted_twice(runs):
  with pytest.raises(UserError, match='wn with seed 0 is given more than once'):
    report.load([*runs, runs[2]])


def test_runs_of_different_configs_are_not_mixed(runs):
  summary = json.loads((runs[2] / 'summary.json').read_text())
  summary['config']['width'] = 96
  (runs[2] / 'summary.json').write_text(json.dumps(summary))
  with pytest.raises(UserError, match=r'the runs differ in config\.width: 32, 96'):
    report.load(runs)


def test_quickstart(tmp_path, capsys):
  quickstart.quickstart(tmp_path, seeds=1, protocol='tiny')
  output = capsys.readouterr().out
  assert f'{tmp_path}/learning_curves.png' in output and 'scripts/test' in output
  table = output.split('standard error:')[1].split('Learning')[0].strip().splitlines()
  assert table[0].split() == ['epoch', 'plain', 'wn', 'wn_mean_bn']
  with (tmp_path / 'test_error.csv').open() as file:
    last = list(csv.reader(file))[-1]
  np.testing.assert_allclose([float(x) for x in table[-1].split()], [float(x) for x in last])
  assert (tmp_path / 'learning_curves.png').exists()


def test_quickstart_needs_a_seed(tmp_path):
  with pytest.raises(UserError, match='give 1 or more'):
    quickstart.quickstart(tmp_path, seeds=0, protocol='tiny')
