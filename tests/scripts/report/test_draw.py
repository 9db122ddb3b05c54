"""Figure 3 on made-up runs of DRAW."""

import json

import pandas as pd
import pytest

from configs import draw as config_lib
from experiments import results
from scripts.report import draw, output, sections

# Test bound after each of four epochs of 600 updates.
BOUNDS = {
  ('plain', 0): (200, 150, 120, 109),
  ('plain', 1): (200, 152, 122, 111),
  ('wn', 0): (180, 130, 110, 90),  # 110, where plain ends, after the third epoch
  ('wn', 1): (180, 120, 100, 95),  # half-way through the third
  ('wn', 2): (190, 140, 130, 115),  # never
  ('plain-noattention', 0): (300, 250, 220, 200),
}


@pytest.fixture
def section(tmp_path):
  for (variant, seed), bounds in BOUNDS.items():
    path = tmp_path / f'{variant}{seed}'
    path.mkdir()
    spec = variant.replace('-', ',')
    config = config_lib.get_config(f'{spec},scaled').to_dict() | {'seed': seed, 'epochs': 4}
    rows = [
      {'step': 600 * epoch, 'epoch': epoch, 'seconds': 60 * epoch, 'test/nll_bound': value}
      for epoch, value in enumerate(bounds, start=1)
    ]
    (path / 'summary.json').write_text(json.dumps({'config': config, 'final': rows[-1]}))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (path / 'drawing.gif').write_bytes(f'{variant} {seed}'.encode())
  runs, _ = results.find([tmp_path])
  (made,), problems = sections.make(runs, note='A note.')
  assert not problems
  return made


def test_bounds_and_the_updates_that_wn_needs(section):
  table, updates = section.tables
  assert table.frame.values.tolist() == [
    ['`plain`', '2', '200.00 ± 0.00', '151.00 ± 1.00', '110.00 ± 1.00'],
    ['`plain-noattention`', '1', '300.00', '250.00', '200.00'],
    ['`wn`', '3', '183.33 ± 3.33', '130.00 ± 5.77', '100.00 ± 7.64'],
  ]
  for part in ('16 glimpses (paper: 64)', '5×5 (paper: 2×2)', '4 epochs', 'rate 0.001', 'A note.'):
    assert part in table.caption
  (row,) = updates.frame.to_dict('records')
  assert row == {
    'pair': '`wn`, `plain`',
    'final bound of plain': '110.00 ± 1.00',
    'its updates': '2,400',
    'updates of wn to reach it': '1,650 ± 150',
    'seeds that reach it': '2 of 3',
    'share': '0.69',
  }
  assert section.data['bound'].shape == (4, 1 + len(BOUNDS))


def test_the_figure_is_against_updates(section):
  by_updates, by_minutes = section.pictures[0].figure.axes
  assert by_updates.get_xlabel() == 'updates' and by_minutes.get_xlabel() == 'minutes'
  assert by_updates.get_xlim()[1] > 2400 and by_updates.get_ylim()[1] == 250
  assert max(line.get_xdata().max() for line in by_updates.lines if len(line.get_xdata())) == 2400


@pytest.mark.parametrize(
  'goal, expected', [(200.0, 600.0), (150.0, 900.0), (100.0, 1200.0), (99.0, None)]
)
def test_the_first_update_that_reaches_a_goal(goal, expected):
  run = pd.DataFrame({'updates': [600, 1200, 1800], 'value': [200.0, 100.0, 120.0]})
  assert draw.first_update(run, goal) == expected


def test_animations_of_the_first_seeds_are_in_the_report(section, tmp_path):
  output.write([section], tmp_path / 'out')
  assert (tmp_path / 'out/wn/seed0/drawing.gif').read_bytes() == b'wn 0'
  assert not (tmp_path / 'out/wn/seed1/drawing.gif').exists()
  assert (tmp_path / 'out/index.html').read_text().count('data:image/gif;base64,') == 3
