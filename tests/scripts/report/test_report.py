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
from experiments.runtime.errors import UserError
from scripts.report import __main__ as report
from scripts.report import output, sections, step_times


def make(paths, **kwargs):
  """The sections of runs all of which can be used."""
  runs, problems = results.find(paths)
  made, more = sections.make(runs, **kwargs)
  assert not problems + more
  return made


def edit(path, change):
  """Changes the summary of a run."""
  summary = json.loads((path / 'summary.json').read_text())
  change(summary)
  (path / 'summary.json').write_text(json.dumps(summary))


def test_figure_2_has_each_of_two_seeds_and_the_papers_value(runs, make_run):
  (section,) = make([*runs[::-1], make_run('plain_released', 0, (9, 8))])
  assert section.title == 'Figures 1 and 2: cifar10, protocol scaled'
  table = section.tables[0]
  assert table.name == 'figure2' and table.caption.startswith('Figure 2: test error in %')
  assert list(table.frame) == [
    'parameterization', 'seeds', 'learning rate', 'tried', 'training error', 'test error',
    'paper, 200 epochs',
  ]  # fmt: skip
  # Standard error of two values: |difference| / 2. In training 0.2 × 2 + 0.8 × 0.5 = 0.8 of it.
  assert table.frame.values.tolist() == [
    ['`plain`', '2', '0.001', '0.001', '32.00, 35.20', '40.00, 44.00', '8.43'],
    ['`wn`', '1', '0.001', '0.001', '16.00', '20.00', '8.46'],
    ['`plain_released`', '1', '0.001', '0.001', '6.40', '8.00', '–'],
  ]


def test_the_caption_says_what_was_run_how_it_differs_and_what_it_shows(runs):
  (section,) = make(runs, note='A note.')
  caption = section.pictures[0].caption
  assert caption.startswith('Figure 1: training error on cifar10')
  assert caption.endswith(
    ' Unlike the paper: model.width=32 (paper: 96), optimizer.learning_rate=0.001 (paper: 0.0003 '
    'or 0.003), epochs=2 (paper: 200), and its schedules scaled to them. A note.'
  )


def test_the_papers_protocol_is_called_so(make_run):
  errors = tuple(np.linspace(50, 8, 200))
  path = make_run('wn', 0, errors, protocol='paper', **{'optimizer.learning_rate': 0.003})
  (section,) = make([path])
  assert section.pictures[0].caption.endswith(" The paper's protocol.")


def test_digits_have_no_value_of_the_paper(make_run):
  (section,) = make([make_run('wn', 0, (9, 8), protocol='digits')])
  assert section.title == 'As Figures 1 and 2: digits, protocol digits'
  assert 'paper, 200 epochs' not in section.tables[0].frame


def test_the_best_learning_rate_is_that_of_the_smallest_mean_last_error(make_run):
  errors = {('plain', 0.001): 40, ('plain', 0.003): 30, ('wn', 0.001): 20, ('wn', 0.003): 25}
  paths = [
    make_run(variant, seed, (1, error + 2 * seed), **{'optimizer.learning_rate': rate})
    for (variant, rate), error in errors.items()
    for seed in (0, 1)
  ]
  (section,) = make(paths)
  figure2, rates = section.tables
  assert list(figure2.frame['learning rate']) == ['0.003', '0.001']
  assert list(figure2.frame['tried']) == ['0.001, 0.003'] * 2
  assert list(figure2.frame['test error']) == ['30.00, 32.00', '20.00, 22.00']
  assert list(rates.frame['0.001']) == ['40.00, 42.00', '**20.00, 22.00**']
  assert list(rates.frame['0.003']) == ['**30.00, 32.00**', '25.00, 27.00']
  assert 'at the best learning rate of those tried' in figure2.caption
  assert 'learning_rate' not in section.pictures[0].caption  # the paper tried several as well
  picture = {picture.name: picture for picture in section.pictures}['learning_rates']
  (axes,) = picture.figure.axes
  assert axes.get_xscale() == 'log'
  np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.001, 41], [0.003, 31]])
  assert 'diverged' not in picture.caption


def test_a_run_that_diverged_counts_against_its_rate(make_run, tmp_path):
  rate = 'optimizer.learning_rate'
  paths = [make_run('wn', seed, (30, 20), **{rate: 0.001}) for seed in (0, 1)]
  paths += [make_run('wn', 0, (30, 10), **{rate: 0.003}), make_run('wn', 1, (), **{rate: 0.003})]
  paths += [
    make_run('plain', 0, (30, 25), **{rate: 0.001}),
    make_run('plain', 0, (), **{rate: 0.01}),
  ]
  out = tmp_path / 'results'
  output.write(make(paths), out)
  for (section,) in (make(paths), make([out])):  # what was copied makes the same report
    figure2, rates = (table.frame for table in section.tables)
    assert figure2['learning rate'].tolist() == ['0.001', '0.001']
    assert figure2['tried'].tolist() == ['0.001, 0.01', '0.001, 0.003']
    assert rates.values.tolist() == [
      ['`plain`', '**25.00**', '–', 'diverged'],
      ['`wn`', '**20.00, 20.00**', '10.00, 1 diverged', '–'],
    ]
    assert len(section.runs) == 6
    picture = section.pictures[2]
    assert picture.name == 'learning_rates' and 'crosses are runs that diverged' in picture.caption
    crosses = [line for line in picture.figure.axes[0].lines if line.get_marker() == 'x']
    assert sorted(float(line.get_xdata()[0]) for line in crosses) == [0.003, 0.01]


def test_a_seed_that_diverged_at_the_only_rate_is_named(make_run):
  (section,) = make([make_run('wn', 0, (30, 20)), make_run('wn', 1, ())])
  assert section.tables[0].frame['seeds'].tolist() == ['1, 1 diverged']


def test_a_variant_that_diverged_at_all_seeds_and_rates_is_in_the_table(runs, make_run):
  lost = [make_run('wn_mean_bn', seed, (), **{'optimizer.learning_rate': 0.01}) for seed in (0, 1)]
  (section,) = make([*runs, *lost])
  first, *_ = section.tables
  assert first.frame.iloc[-1].to_dict() == {
    'parameterization': '`wn_mean_bn`',
    'seeds': '0, 2 diverged',
    'learning rate': '–',
    'tried': '0.01',
    'training error': '–',
    'test error': '–',
    'paper, 200 epochs': '–',
  }


def test_nothing_but_diverged_runs(make_run):
  found, _ = results.find([make_run('wn', 1, ())])
  made, (problem,) = sections.make(found)
  assert not made and problem.endswith('diverged (train/loss is nan at step 7).')


def test_written_files(runs, tmp_path):
  out = tmp_path / 'results'
  block = output.write(make(runs, note='A note.'), out)
  for path in runs:
    recorded = out / path.parent.name / f'seed{path.name}'
    for name in ('metrics.jsonl', 'summary.json'):
      assert (recorded / name).read_bytes() == (path / name).read_bytes()
  curves = pd.read_csv(out / 'test_error.csv')
  assert list(curves) == ['epoch', 'plain/seed0', 'plain/seed1', 'wn/seed0']
  np.testing.assert_allclose(curves, [[1, 50, 60, 30], [2, 40, 44, 20]])
  training = pd.read_csv(out / 'training_error.csv')
  np.testing.assert_allclose(training, [[1, 40, 48, 24], [2, 32, 35.2, 16]])
  assert list(pd.read_csv(out / 'figure2.csv')['test error']) == ['40.00, 44.00', '20.00']
  assert 'Figure 2: test error' in (out / 'figure2.md').read_text()
  assert matplotlib.image.imread(out / 'figure1.png').shape[:2] == (675, 1800)
  assert ET.parse(out / 'figure1.svg').getroot().tag.endswith('svg')
  # In the order in which they are read.
  parts = ['**Figures 1 and 2', 'figure1.png)', 'Figure 1:', 'A note.', 'Data:', '|', 'Figure 2:']
  places = [block.index(part) for part in parts]
  assert places == sorted(places)

  before = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
  output.write(make([out]), out)  # results can be read again, where they are
  changed = {p.name for p in before if p.read_bytes() != before[p]}
  assert changed <= {'index.html'}  # the note is not there, and paths are others


def test_lines_and_their_bands(runs):
  (section,) = make(runs)
  training, test = section.pictures[0].figure.axes
  assert (training.get_ylabel(), test.get_ylabel()) == ('training error (%)', 'test error (%)')
  plain, wn = test.lines[:2]
  np.testing.assert_allclose(plain.get_xydata(), [[1, 55], [2, 42]])
  np.testing.assert_allclose(wn.get_xydata(), [[1, 30], [2, 20]])
  np.testing.assert_allclose(training.lines[1].get_ydata(), [24, 16])
  band = test.collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == (40, 60)  # 42 − 2 and 55 + 5
  (by_time,) = section.pictures[1].figure.axes
  np.testing.assert_allclose(by_time.lines[0].get_xdata(), [1, 2])  # a minute an epoch


def step_file(path, **changes):
  row = {'framework': 'jax', 'dtype': 'float32', 'mode': 'winograd', 'width': 32, 'batch': 100}
  seconds = {'plain': 0.12, 'wn': 0.24}
  rows = [row | {'variant': v, 'seconds': s} | changes for v, s in seconds.items()]
  path.write_text(json.dumps({'rows': rows}))
  return path


def test_error_against_time_takes_the_step_times_of_a_benchmark(runs, tmp_path):
  (section,) = make(runs, steps=step_file(tmp_path / 'steps.json'))
  picture = section.pictures[1]
  (by_time,) = picture.figure.axes
  np.testing.assert_allclose(by_time.lines[0].get_xdata(), [1, 2])  # 500 steps of 0.12 s: a minute
  np.testing.assert_allclose(by_time.lines[1].get_xdata(), [2, 4])
  assert 'median time of a step' in picture.caption


def test_step_times_of_another_size_are_refused(runs, tmp_path):
  found, _ = results.find(runs)
  with pytest.raises(UserError, match='has no step time for plain, float32, winograd, 32, 100'):
    step_times.read(step_file(tmp_path / 'x.json', width=96), found)


def test_diagnostics_are_drawn_for_each_parameterization(make_run, runs):
  values = {'v_norm': 2.0, 'g': 1.0, 'v_grad_cosine': 1e-8}
  logged = {f'diagnostics/{layer}/{k}': v for layer in ('a', 'b.c') for k, v in values.items()}
  (section,) = make([*runs, make_run('wn', 1, (30, 20), diagnostics=logged)])
  picture = section.pictures[-1]
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
  make_run('bn', 3, (9, 9), epochs=3)
  shutil.copytree(runs[2], tmp_path / 'runs' / 'copy')
  edit(make_run('bn', 5, (9, 9)), lambda summary: summary.pop('data'))
  edit(make_run('bn', 6, (9, 9)), lambda summary: summary['config'].update(variant='bn'))
  edit(make_run('bn', 7, (9, 9)), lambda summary: summary.update(data={'digest': 1}))
  foreign = tmp_path / 'runs' / 'foreign'
  foreign.mkdir()
  (foreign / 'config.json').write_text('{"name": "something else"}')
  readme = tmp_path / 'README.md'
  readme.write_text('<!-- out -->\n<!-- /out -->\n')
  report.main([str(tmp_path / 'runs'), '--out', str(tmp_path / 'out'), '--readme', str(readme)])
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 9 and all(line.startswith('left out: ') for line in lines)
  for run, reason in (
    ('bn/0', 'is not finished'),
    ('bn/1', 'metrics.jsonl has no rows'),
    ('bn/2', 'summary.json is damaged'),
    ('bn/3', 'lacks evaluations: there should be 3'),
    ('bn/5', 'is a run of an older version, which did not record its data'),
    ('bn/6', 'is a run of an older version, whose format this one does not read'),
    ('bn/7', 'summary.json does not describe the data of a run'),
    ('wn/0', 'has the same variant, rate and seed as'),
    ('foreign', 'is not from a run'),
  ):
    assert any(run in line and reason in line for line in lines), (run, lines)
  text = readme.read_text()
  assert '| `plain`' in text and '| `wn`' in text
  assert text.count('`bn`') == 1  # in the table of unfinished runs
  assert '](out/figure1.png)' in text


def test_unfinished_runs_have_a_table(runs, make_run, tmp_path, capsys):
  """It is in the block, too, and a report on the copies is the same."""
  stopped = make_run('bn', 0, (9, 8), **{'optimizer.learning_rate': 0.003, 'epochs': 2})
  (stopped / 'summary.json').unlink()
  rows = (stopped / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (stopped / 'metrics.jsonl').write_text(''.join(rows[:4]))
  for source, out in (('runs', 'out'), ('out', 'again')):
    report.main([str(tmp_path / source), '--out', str(tmp_path / out)])
    output = capsys.readouterr()
    assert 'is not finished' in output.err
    assert '| `bn`' in output.out and 'Unfinished runs; ' in output.out
    table = pd.read_csv(tmp_path / out / 'unfinished.csv')
    assert table.values.tolist() == [['`bn`', 0.003, 0, '1 of 2', 9.0]]
    assert list(table)[-1] == 'last test error (%)'
    assert '`bn`' not in (tmp_path / out / 'figure2.md').read_text()
    assert '<td>not finished</td>' in (tmp_path / out / 'index.html').read_text()


def test_copies_are_replaced_when_a_run_has_gone_on(make_run, tmp_path):
  """A report on them is the same, and a second rate makes no second copy."""
  path = make_run('wn', 0, (30, 20))
  (path / 'score-3.json').write_text('{}')
  out = tmp_path / 'out'
  report.main([str(tmp_path / 'runs'), '--out', str(out)])
  copy = out / 'wn' / 'seed0'
  assert {file.name for file in copy.iterdir()} == {
    'metrics.jsonl',
    'score-3.json',
    'summary.json',
  }
  (path / 'summary.json').unlink()  # it trains on
  other = make_run('wn', 0, (30, 25), **{'optimizer.learning_rate': 0.003})
  report.main([str(tmp_path / 'runs'), '--out', str(out)])
  assert {file.name for file in copy.iterdir()} == {'config.json', 'data.json', 'metrics.jsonl'}
  assert (out / 'unfinished.md').exists()
  second = out / 'wn' / 'learning_rate=0.003' / 'seed0'
  assert (second / 'summary.json').read_bytes() == (other / 'summary.json').read_bytes()
  assert len(list(out.rglob('metrics.jsonl'))) == 2


def test_rows_that_come_after_the_runs_were_read_are_not_copied(runs, tmp_path):
  (section,), _ = sections.make(results.find(runs)[0])
  before = (runs[0] / 'metrics.jsonl').read_text()
  (runs[0] / 'metrics.jsonl').write_text(before + before.splitlines(keepends=True)[-1] + '{"ste')
  output.write([section], tmp_path / 'out')
  assert (tmp_path / 'out' / 'plain' / 'seed0' / 'metrics.jsonl').read_text() == before


def test_a_run_in_the_place_of_a_copy_is_kept(runs, make_run, tmp_path):
  out = tmp_path / 'out'
  shutil.copytree(make_run('wn', 0, (9, 8), epochs=2), out / 'wn' / 'seed0')
  (out / 'wn' / 'seed0' / 'checkpoints').mkdir()
  before = sorted(tmp_path.rglob('*'))
  (section,), _ = sections.make(results.find(runs)[0])
  with pytest.raises(UserError, match='out/wn/seed0 is a run, and no copy of one'):
    output.write([section], out)
  assert sorted(tmp_path.rglob('*')) == before


def test_of_equal_runs_the_one_that_came_furthest_counts(runs, make_run):
  """Whatever the order of their paths."""
  at = {'optimizer.learning_rate': 0.003}
  short = make_run('wn', 0, (30, 20), **{'run.log_every': 7})  # of a finished one
  (short / 'summary.json').unlink()
  first, second, third = (
    make_run('bn', 0, (9, 8)[:epochs], **at, **{'epochs': 2, 'run.log_every': epochs})
    for epochs in (1, 2, 0)
  )
  for path in (first, second):
    (path / 'summary.json').unlink()
  for paths in ([short, first, second, *runs], [*runs[::-1], second, first, short]):
    (section,), problems = sections.make(results.find(paths)[0])
    assert section.tables[-1].frame.values.tolist() == [['`bn`', '0.003', '0', '2 of 2', '8.00']]
    for path, reason in (
      (short, 'has the same'),
      (first, 'has the same'),
      (second, 'not finished'),
    ):
      assert any(str(path) in problem and reason in problem for problem in problems)
    (section,), _ = sections.make(results.find([*paths, third])[0])  # it diverged
    assert [table.name for table in section.tables] == ['figure2']
    assert [run.path for run in section.runs[3:]] == [third]


def test_rates_of_unfinished_runs_are_told(runs, make_run):
  for rate in (0.003, 0.001):  # another one is finished at 0.001
    path = make_run('wn', 5, (30, 20), **{'optimizer.learning_rate': rate})
    (path / 'summary.json').unlink()
    runs.append(path)
  runs.append(make_run('plain', 0, (50, 41), **{'optimizer.learning_rate': 0.003}))
  (section,), _ = sections.make(results.find(runs)[0])
  table, rates, _ = section.tables
  assert table.frame['tried'].to_list() == ['0.001, 0.003', '0.001, 0.003 (unfinished)']
  assert rates.frame['0.003'].to_list() == ['**41.00**', 'unfinished']


def test_a_group_without_finished_runs_takes_no_number(runs, make_run):
  other = make_run('bn', 0, (9, 8), **{'model.width': 64})
  (other / 'summary.json').unlink()
  found, _ = results.find([other, *runs])
  (section,), problems = sections.make(found)
  assert section.name == 'cifar-scaled' and 'is not finished' in problems[0]


def test_figure_1_is_at_the_papers_rates_and_figure_2_at_the_best(make_run):
  """In the paper's protocol, where there are runs at its rates."""
  runs = [
    make_run('plain', 0, errors, protocol='paper', **{'optimizer.learning_rate': rate})
    for rate, errors in ((0.0003, (30, 20)), (0.001, (30, 10)))
  ]
  runs.append(make_run('wn', 0, (30, 9), protocol='paper'))  # at 0.001 alone
  (section,) = make(runs)
  assert 'learning rate 0.0003 (plain), 0.001 (wn).' in section.pictures[0].caption
  assert section.data['test_error'].iloc[-1].to_list() == [2, 20.0, 9.0]
  assert section.data['training_error'].iloc[-1].to_list() == [2, 16.0, 7.2]
  table = section.tables[0].frame
  assert table['learning rate'].to_list() == ['0.001', '0.001']
  assert table['training error'].to_list() == ['8.00', '7.20']
  assert table['test error'].to_list() == ['10.00', '9.00']


def test_runs_of_different_configs_have_sections_of_their_own(runs, make_run, tmp_path):
  wide = make_run('wn', 0, (10, 5), **{'model.width': 96})
  made = make([*runs, wide])
  title = 'Figures 1 and 2: cifar10, protocol scaled'
  assert [section.title for section in made] == [title, f'{title}, with model.width=96']
  block = output.write(made, tmp_path / 'out')
  assert f'**{title}, with model.width=96**' in block
  assert (tmp_path / 'out' / 'cifar-scaled-2' / 'wn' / 'seed0' / 'metrics.jsonl').exists()


def test_what_changes_no_result_does_not_part_runs(make_run):
  watched = {'run.diagnostics': True, 'run.eval_batch_size': 100}
  assert len(make([make_run('wn', 0, (10, 5)), make_run('wn', 1, (10, 5), **watched)])) == 1


def test_runs_on_different_data_have_sections_of_their_own(runs, make_run, describe):
  other = describe('cifar10', digest='fedcba987654' + 52 * '0', test=False)
  first, second = make([*runs, make_run('wn', 1, (10, 5), data=other)])
  assert [len(section.runs) for section in (first, second)] == [3, 1]
  assert second.title.endswith('protocol scaled, with data of digest fedcba987654')
  assert first.source == (
    'Data: cifar10, 50,000 + 10,000 images, digest 0123456789ab, the published ones.'
  )
  assert second.source == (
    'Data: cifar10, 50,000 + 10,000 images, digest fedcba987654; not all test images are '
    'the published ones.'
  )
  (section,) = make([make_run('wn', 2, (9, 8), protocol='digits')])
  assert section.source == 'Data: digits, 1,297 + 500 images, digest 0123456789ab.'


def test_runs_that_differ_are_not_joined_by_one_that_lacks_the_key(make_run):
  old = make_run('wn', 0, (10, 5))
  edit(old, lambda summary: summary['config'].pop('ema_epochs'))
  made = make([old, make_run('wn', 1, (10, 5)), make_run('wn', 2, (10, 5), ema_epochs=0.9)])
  assert [len(section.runs) for section in made] == [2, 1]
  assert made[1].title.endswith(', with ema_epochs=0.9')


def test_a_config_without_what_a_section_needs(make_run, runs):
  bad = make_run('bn', 0, (10, 5))
  edit(bad, lambda summary: summary['config'].pop('model'))
  found, _ = results.find([bad, *runs])
  (section,), (problem,) = sections.make(found)
  assert len(section.runs) == 3
  assert problem.endswith('its config lacks model.dtype, model.width.')


def test_a_variant_that_there_is_not(make_run, runs):
  bad = make_run('bn', 0, (10, 5))
  edit(bad, lambda summary: summary['config']['variant'].update(parameterization='xn'))
  found, _ = results.find([bad, *runs])
  _, (problem,) = sections.make(found)
  assert problem.endswith("has an unknown variant 'xn'.")


def test_a_key_that_came_later_does_not_part_runs(runs):
  edit(runs[0], lambda summary: summary['config'].pop('ema_epochs'))
  assert len(make(runs)) == 1


def test_jax_is_not_imported(runs, tmp_path):
  code = (
    'import sys; from scripts.report import __main__ as report; '
    f'report.main([{str(runs[0])!r}, "--out", {str(tmp_path / "out")!r}]); '
    'assert not {"jax", "flax", "tensorflow"} & sys.modules.keys()'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_times_of_different_devices_are_not_drawn(runs, make_run):
  paths = [*runs[:1], make_run('plain', 5, (10, 5))]
  for path, kind in zip(paths, ('cpu', 'H100')):
    summary = json.loads((path / 'summary.json').read_text())
    (path / 'summary.json').write_text(json.dumps(summary | {'device': {'kind': kind}}))
  (section,) = make(paths)
  assert 'test_error_time' not in [picture.name for picture in section.pictures]
  (section,) = make(paths[:1])
  (picture,) = (picture for picture in section.pictures if picture.name == 'test_error_time')
  assert picture.caption.startswith('Test error; time is wall-clock time on cpu, compilation')
