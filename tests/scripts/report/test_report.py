"""The report on made-up runs: tables, files, README block, runs that cannot be used."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from experiments import results
from experiments.training.errors import UserError
from scripts.report import __main__ as report
from scripts.report import curves, output, sections, step_times


def make(paths, **kwargs):
  """The sections of runs all of which can be used."""
  runs, problems = results.find(paths)
  made, more = sections.make(runs, **kwargs)
  assert not problems + more
  return made


def test_table_has_mean_standard_error_and_the_papers_value(runs):
  (section,) = make(runs[::-1])
  table = section.tables[0].frame
  assert list(table) == ['parameterisation', 'seeds', 'epoch 1', 'epoch 2', 'paper, 200 epochs']
  # Standard error of two values: |difference| / 2.
  assert list(table.iloc[0]) == ['`plain`', '2', '55.00 ± 5.00', '42.00 ± 2.00', '8.43']
  assert list(table.iloc[1]) == ['`wn`', '1', '30.00', '20.00', '8.46']
  assert 'width 32 (paper: 96), 2 epochs (paper: 200)' in section.tables[0].caption


def test_digits_have_no_value_of_the_paper(make_run):
  (section,) = make([make_run('wn', 0, (9, 8), dataset='digits')])
  assert list(section.tables[0].frame) == ['parameterisation', 'seeds', 'epoch 1', 'epoch 2']


def test_the_best_learning_rate_is_that_of_the_smallest_mean_last_error(make_run):
  errors = {('plain', 0.001): 40, ('plain', 0.003): 30, ('wn', 0.001): 20, ('wn', 0.003): 25}
  paths = [
    make_run(variant, seed, (1, error + 2 * seed), learning_rate=rate)
    for (variant, rate), error in errors.items()
    for seed in (0, 1)
  ]
  (section,) = make(paths)
  table, rates = (table.frame for table in section.tables)
  assert list(table['learning rate']) == ['0.003', '0.001']
  assert list(table['epoch 2']) == ['31.00 ± 1.00', '21.00 ± 1.00']
  assert list(rates['0.001']) == ['41.00 ± 1.00', '**21.00 ± 1.00**']
  assert list(rates['0.003']) == ['**31.00 ± 1.00**', '26.00 ± 1.00']
  assert 'the best of 2 learning rates for each' in section.tables[0].caption


def test_written_files(runs, tmp_path):
  out = tmp_path / 'results'
  output.write(make(runs, note='A note.'), out)
  for path in runs:
    recorded = out / path.parent.name / f'seed{path.name}'
    for name in ('metrics.jsonl', 'summary.json'):
      assert (recorded / name).read_bytes() == (path / name).read_bytes()
  curves = pd.read_csv(out / 'test_error.csv')
  assert list(curves) == ['epoch', 'plain/seed0', 'plain/seed1', 'wn/seed0']
  np.testing.assert_allclose(curves, [[1, 50, 60, 30], [2, 40, 44, 20]])
  assert list(pd.read_csv(out / 'table.csv')['epoch 1']) == ['55.00 ± 5.00', '30.00']
  assert 'A note.' in (out / 'table.md').read_text()
  assert matplotlib.image.imread(out / 'learning_curves.png').shape[:2] == (600, 1800)
  assert ET.parse(out / 'learning_curves.svg').getroot().tag.endswith('svg')

  before = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
  output.write(make([out]), out)  # results can be read again, where they are
  changed = {p.name for p in before if p.read_bytes() != before[p]}
  assert changed <= {'table.md', 'index.html'}  # the note is not there, and paths are others


def test_a_line_and_its_band(runs):
  (section,) = make(runs)
  by_epoch, by_time = section.pictures[0].figure.axes
  plain, wn = by_epoch.lines[:2]
  np.testing.assert_allclose(plain.get_xydata(), [[1, 55], [2, 42]])
  np.testing.assert_allclose(wn.get_xydata(), [[1, 30], [2, 20]])
  band = by_epoch.collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == (40, 60)  # 42 − 2 and 55 + 5
  np.testing.assert_allclose(by_time.lines[0].get_xdata(), [1, 2])  # a minute an epoch


def step_file(path, **changes):
  row = {'framework': 'jax', 'dtype': 'float32', 'mode': 'winograd', 'width': 32, 'batch': 100}
  seconds = {'plain': 0.12, 'wn': 0.24}
  rows = [row | {'variant': v, 'seconds': s} | changes for v, s in seconds.items()]
  path.write_text(json.dumps({'rows': rows}))
  return path


def test_error_against_time_takes_the_step_times_of_a_benchmark(runs, tmp_path):
  (section,) = make(runs, steps=step_file(tmp_path / 'steps.json'))
  _, by_time = section.pictures[0].figure.axes
  np.testing.assert_allclose(by_time.lines[0].get_xdata(), [1, 2])  # 500 steps of 0.12 s: a minute
  np.testing.assert_allclose(by_time.lines[1].get_xdata(), [2, 4])
  assert 'median time of a step' in section.pictures[0].caption


def test_step_times_of_another_size_are_refused(runs, tmp_path):
  found, _ = results.find(runs)
  with pytest.raises(UserError, match='has no step time for plain, float32, winograd, 32, 100'):
    step_times.read(step_file(tmp_path / 'x.json', width=96), found)


def test_diagnostics_are_drawn_for_each_parameterisation(make_run, runs):
  values = {'v_norm': 2.0, 'g': 1.0, 'v_grad_cosine': 1e-8}
  logged = {f'diagnostics/{layer}/{k}': v for layer in ('a', 'b.c') for k, v in values.items()}
  (section,) = make([*runs, make_run('wn', 1, (30, 20), diagnostics=logged)])
  _, picture = section.pictures
  assert picture.name == 'diagnostics_wn' and 'seed 1' in picture.caption
  panels = picture.figure.axes
  assert [axes.get_ylabel() for axes in panels] == ['‖v‖', '|g|', '|v·∇v| / (‖v‖ ‖∇v‖)']
  for axes, value in zip(panels, values.values(), strict=True):
    first, second = axes.lines[:2]
    np.testing.assert_allclose([first.get_ydata(), second.get_ydata()], value)


def test_readme_block_is_replaced_between_its_markers(tmp_path):
  readme = tmp_path / 'README.md'
  other = '<!-- b -->\nother\n<!-- /b -->\n'
  readme.write_text(f'before\n<!-- a -->\nold\n<!-- /a -->\nafter\n{other}')
  for _ in range(2):
    output.replace_block(readme, 'a', 'new')
    expected = f'before\n<!-- a -->\n\nnew\n\n<!-- /a -->\nafter\n{other}'
    assert readme.read_text() == expected
  with pytest.raises(UserError, match='has no lines <!-- c --> and <!-- /c -->'):
    output.replace_block(readme, 'c', 'new')
  with pytest.raises(UserError, match='there is no file'):
    output.replace_block(tmp_path / 'none.md', 'a', 'new')


def test_command_writes_the_block_and_names_what_it_leaves_out(runs, make_run, tmp_path, capsys):
  (make_run('bn', 0, (9, 9)) / 'summary.json').unlink()
  (make_run('bn', 1, (9, 9)) / 'metrics.jsonl').write_text('')
  (make_run('bn', 2, (9, 9)) / 'summary.json').write_text('{"config"')
  make_run('bn', 3, (9, 9, 9), epochs=4)
  shutil.copytree(runs[2], tmp_path / 'runs' / 'copy')
  foreign = tmp_path / 'runs' / 'foreign'
  foreign.mkdir()
  (foreign / 'config.json').write_text('{"name": "something else"}')
  readme = tmp_path / 'README.md'
  readme.write_text('<!-- out -->\n<!-- /out -->\n')
  report.main([str(tmp_path / 'runs'), '--out', str(tmp_path / 'out'), '--readme', str(readme)])
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 6 and all(line.startswith('left out: ') for line in lines)
  for run, reason in (
    ('bn/0', 'is not finished'),
    ('bn/1', 'metrics.jsonl has no rows'),
    ('bn/2', 'summary.json is damaged'),
    ('bn/3-4', 'lacks evaluations: there should be 4'),
    ('wn/0', 'has the same variant, rate and seed as'),
    ('foreign', 'is not of a run'),
  ):
    assert any(run in line and reason in line for line in lines), (run, lines)
  text = readme.read_text()
  assert '| `plain`' in text and '| `wn`' in text and '`bn`' not in text
  assert '](out/learning_curves.png)' in text


def test_runs_of_different_configs_have_sections_of_their_own(runs, make_run, tmp_path):
  wide = make_run('wn', 0, (10, 5), width=96)
  made = make([*runs, wide])
  assert [section.title for section in made] == ['cifar-scaled', 'cifar-scaled with width=96']
  block = output.write(made, tmp_path / 'out')
  assert '**cifar-scaled with width=96**' in block
  assert (tmp_path / 'out' / 'cifar-scaled-2' / 'wn' / 'seed0' / 'metrics.jsonl').exists()


def test_runs_that_differ_are_not_joined_by_one_that_lacks_the_key(make_run):
  old = make_run('wn', 0, (10, 5))
  summary = json.loads((old / 'summary.json').read_text())
  del summary['config']['ema_decay']
  (old / 'summary.json').write_text(json.dumps(summary))
  made = make([old, make_run('wn', 1, (10, 5)), make_run('wn', 2, (10, 5), ema_decay=0.9)])
  assert [len(section.runs) for section in made] == [2, 1]
  assert made[1].title == 'cifar-scaled with another config'


def test_a_config_without_what_a_section_needs(make_run, runs, tmp_path):
  bad = make_run('bn', 0, (10, 5))
  summary = json.loads((bad / 'summary.json').read_text())
  del summary['config']['width'], summary['config']['learning_rate']
  (bad / 'summary.json').write_text(json.dumps(summary))
  found, _ = results.find([bad, *runs])
  (section,), (problem,) = sections.make(found)
  assert len(section.runs) == 3 and problem.endswith('its config lacks learning_rate, width.')


def test_a_key_that_came_later_does_not_part_runs(runs):
  path = runs[0] / 'summary.json'
  summary = json.loads(path.read_text())
  del summary['config']['dtype'], summary['config']['diagnostics']
  path.write_text(json.dumps(summary))
  assert len(make(runs)) == 1


def test_jax_is_not_imported(runs, tmp_path):
  code = (
    'import sys; from scripts.report import __main__ as report; '
    f'report.main([{str(runs[0])!r}, "--out", {str(tmp_path / "out")!r}]); '
    'assert not {"jax", "flax", "tensorflow"} & sys.modules.keys()'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_best_rates_of_one_rate(runs):
  found, _ = results.find(runs)
  assert curves.best_rates(curves.evaluations(found, 'test/error')) == {'plain': 0.001, 'wn': 0.001}
