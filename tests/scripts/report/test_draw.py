"""Figure 4 on made-up runs of DRAW."""

import json

import pandas as pd
import pytest

from configs import draw as config_lib
from experiments import results
from scripts.report import draw, output, sections

# Test bound on −log p(x) after each of four epochs of 500 updates.
BOUNDS = {
  ('plain', 0): (200, 150, 120, 109),
  ('plain', 1): (200, 152, 122, 111),
  ('wn', 0): (180, 130, 110, 90),  # 110, where plain ends, after the third epoch
  ('wn', 1): (180, 120, 100, 95),  # half-way through the third
  ('wn', 2): (190, 140, 130, 115),  # never
  ('plain-noattention', 0): (300, 250, 220, 200),
}


@pytest.fixture
def make_run(tmp_path, write, describe):
  def make(variant, seed, bounds, protocol='scaled', **changes):
    config = config_lib.get_config(f'{variant.replace("-", ",")},{protocol}')
    config.update_from_flattened_dict({'seed': seed, 'epochs': len(bounds)} | changes)
    rows = [
      {'step': 500 * epoch, 'epoch': epoch, 'seconds': 60.0 * epoch, 'test/nll_bound': value}
      for epoch, value in enumerate(bounds, start=1)
    ]
    path = write(tmp_path / 'runs' / f'{variant}{seed}{protocol}', config, rows, describe('mnist'))
    (path / 'drawing.gif').write_bytes(f'{variant} {seed}'.encode())

  return make


def make_sections(tmp_path):
  runs, _ = results.find([tmp_path / 'runs'])
  made, problems = sections.make(runs, note='A note.')
  assert not problems
  return made


@pytest.fixture
def section(make_run, tmp_path):
  for (variant, seed), bounds in BOUNDS.items():
    make_run(variant, seed, bounds)
  (made,) = make_sections(tmp_path)
  return made


def test_bounds_and_the_updates_that_wn_needs(section):
  assert section.title == 'Figure 4: DRAW on mnist, protocol scaled'
  table, updates = section.tables
  assert table.frame.columns[2:].tolist() == ['epoch 1', 'epoch 2', 'epoch 4', 'paper, 100 epochs']
  assert table.frame.values.tolist() == [
    ['`plain`', '2', '-200.00, -200.00', '-150.00, -152.00', '-109.00, -111.00', '-89.5'],
    ['`wn`', '3', '-183.33 ± 14.34', '-130.00 ± 24.84', '-100.00 ± 32.86', '-85.0'],
    ['`plain-noattention`', '1', '-300.00', '-250.00', '-200.00', '–'],
  ]
  assert section.pictures[0].caption.endswith(
    'Unlike the paper: model.glimpses=16 (paper: 64), model.read_window=5 (paper: 2), '
    'optimizer.learning_rate=0.001 (paper: 0.0003), epochs=4 (paper: 100). A note.'
  )
  (row,) = updates.frame.to_dict('records')
  assert row == {
    'pair': '`wn`, `plain`',
    'final bound of plain': '-109.00, -111.00',
    'its updates': '2,000',
    'updates of wn to reach it': '1500, 1250',
    'seeds that reach it': '2 of 3',
    'share': '0.69',
  }
  assert section.data['bound_by_run'].shape == (4, 1 + len(BOUNDS))


def test_a_run_without_a_schedule_begins_as_the_papers(make_run, tmp_path):
  make_run('wn', 0, (180, 130), protocol='paper')
  (made,) = make_sections(tmp_path)
  assert made.pictures[0].caption.endswith("The paper's protocol, its first 2 epochs. A note.")
  texts = [text.get_text() for text in made.pictures[0].figure.legends[0].get_texts()]
  assert texts == ['wn', 'paper']


def test_an_unfinished_run_has_its_last_bound(section, make_run, tmp_path):
  make_run('wn', 3, (180, 150), epochs=4)
  (tmp_path / 'runs' / 'wn3scaled' / 'summary.json').unlink()
  ((made,), problems) = sections.make(results.find([tmp_path / 'runs'])[0])
  (row,) = made.tables[-1].frame.values.tolist()
  assert (row[0], *row[2:]) == ('`wn`', '3', '2 of 4', '-150.00') and len(problems) == 1


def test_the_images_that_are_used_are_told(make_run, tmp_path):
  make_run('wn', 0, (180, 130))
  (section,) = make_sections(tmp_path)
  assert '60,000 + 10,000 images, trained on the first 50,000, digest' in section.source


def test_the_figure(section):
  (by_epoch,), (by_minutes,) = (picture.figure.axes for picture in section.pictures[:2])
  assert by_epoch.get_xlabel() == 'epoch' and by_minutes.get_xlabel() == 'minutes'
  assert [picture.name for picture in section.pictures[:2]] == ['figure4', 'bound_time']
  lines = {line.get_label(): line for line in by_epoch.lines}
  assert lines['plain'].get_ydata().tolist() == [-200, -151, -121, -110]
  assert lines['plain-noattention'].get_linestyle() == '-.'
  assert lines['plain-noattention'].get_color() == lines['plain'].get_color()
  papers = [line for line in by_epoch.lines if line.get_linestyle() == '--']
  assert [line.get_xydata()[0].tolist() for line in papers] == [[37, -120], [5, -120]]


def test_runs_of_two_lengths_are_compared(make_run, tmp_path):
  """As in `figure4_prefix`: no schedule depends on the length."""
  make_run('plain', 0, (300, 200, 150, 120), 'paper')
  make_run('wn', 0, (180, 110), 'paper')
  (section,) = make_sections(tmp_path)
  table, updates = (table.frame for table in section.tables)
  assert table['epoch 4'].tolist() == ['-120.00', '–']
  assert updates['its updates'].tolist() == ['2,000']
  assert "The paper's protocol, its first 2 or 4 epochs." in section.pictures[0].caption

  make_run('wn', 1, (180, 110, 100), 'paper')  # two lengths of one variant have no mean
  first, second = make_sections(tmp_path)
  assert [run.variant for run in first.runs] == ['plain', 'wn'] and len(second.runs) == 1
  assert second.title == 'Figure 4: DRAW on mnist, protocol paper, with epochs=3'


def test_runs_from_before_initial_g_are_of_another_function(make_run, tmp_path):
  """`wn` started at ‖v‖ then, and `plain` as it does now."""
  for seed, values in enumerate(((180, 130), (200, 150))):
    for variant in ('plain', 'wn'):
      make_run(variant, seed, values)
  for variant in ('plain', 'wn'):
    path = tmp_path / 'runs' / f'{variant}1scaled' / 'summary.json'
    summary = json.loads(path.read_text())
    del summary['config']['model']['initial_g']
    path.write_text(json.dumps(summary))
  new, old = make_sections(tmp_path)
  assert [run.path.name for run in new.runs] == ['plain0scaled', 'plain1scaled', 'wn0scaled']
  assert [run.path.name for run in old.runs] == ['wn1scaled']
  assert old.title.endswith('protocol scaled, with model.initial_g=0.0')
  assert 'model.initial_g=0.0 (paper: 1.0)' in old.pictures[0].caption


@pytest.mark.parametrize(
  'goal, expected', [(-200.0, 600.0), (-150.0, 900.0), (-100.0, 1200.0), (-99.0, None)]
)
def test_the_first_update_that_reaches_a_goal(goal, expected):
  run = pd.DataFrame({'updates': [600, 1200, 1800], 'value': [-200.0, -100.0, -120.0]})
  assert draw.first_update(run, goal) == expected


def test_animations_of_the_first_seeds_are_in_the_report(section, tmp_path):
  output.write([section], tmp_path / 'out')
  assert (tmp_path / 'out/wn/seed0/drawing.gif').read_bytes() == b'wn 0'
  assert not (tmp_path / 'out/wn/seed1/drawing.gif').exists()
  assert (tmp_path / 'out/index.html').read_text().count('data:image/gif;base64,') == 3
