"""What figures show: colors, the values of the paper, axes that fit."""

import numpy as np
import pandas as pd
import pytest

from configs import cifar, dqn, draw, vae, variants
from experiments import results
from scripts.report import drawing, paper, sections
from scripts.report.drawing import Panel


def rows_of(variant, values):
  epochs = np.arange(1, len(values) + 1)
  return pd.DataFrame({'epoch': epochs, 'value': values, 'seed': 0}).assign(
    variant=variant, label=variant, parameterization=variant
  )


def axes_of(rows, **kwargs):
  return drawing.draw([[Panel(rows, 'epoch', '', '', '', **kwargs)]], 'paper (full size)').axes[0]


def test_each_parameterization_has_a_color_of_its_own():
  assert set(drawing.COLORS) == set(variants.CIFAR_PARAMETERIZATIONS)
  assert len(set(drawing.COLORS.values())) == len(drawing.COLORS)


@pytest.mark.parametrize(
  'number, module, end',
  [(1, cifar, 200), (2, cifar, 200), (3, vae, 450), (4, draw, 100), (5, dqn, 200), (6, dqn, 200)],
)
def test_the_values_of_the_paper(number, module, end):
  points = paper.figure(number)
  assert points[['x', 'y']].notna().all(axis=None) and points['x'].max() == end
  for series, group in points.groupby('series'):
    assert group['x'].is_monotonic_increasing
    if not series.endswith('-mnih'):
      assert module.get_config(series)
      if number in (2, 6):  # tables, whose values are in the docstrings of the configs as well
        assert f'{group["y"].item():,.{2 if number == 2 else 0}f}' in module.__doc__


def test_the_curve_of_the_paper_is_drawn_beside_ours(make_run):
  found, _ = results.find([make_run('wn', 0, tuple(np.linspace(60, 20, 12)))])
  (section,), _ = sections.make(found)
  figure = section.pictures[0].figure
  training, test = figure.axes
  ours, papers = training.lines[:2]
  assert ours.get_color() == papers.get_color() and papers.get_linestyle() == '--'
  assert papers.get_xydata()[0].tolist() == [12, 15]
  assert len(test.lines) == 1  # the paper has the end of that one only, after 200 epochs
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == ['wn', 'paper (full size)']


def test_digits_have_no_curve_of_the_paper(make_run):
  found, _ = results.find([make_run('wn', 0, (60, 20), protocol='digits')])
  (section,), _ = sections.make(found)
  assert [len(axes.lines) for axes in section.pictures[0].figure.axes] == [1, 1]


def test_axes_fit_what_comes_after_the_start():
  values = [90, 60, *np.linspace(30, 20, 18)]
  rows = rows_of('wn', values)
  start = drawing.after_the_start(rows)
  assert start == 3
  low, high = axes_of(rows, fit_from=start).get_ylim()
  assert low == pytest.approx(19.5) and high == pytest.approx(30.5)
  assert axes_of(rows, fit_from=start).get_xlabel().endswith('(the first values are off the scale)')
  assert not axes_of(rows).get_xlabel()
  assert axes_of(rows).get_ylim()[1] > 90
  assert axes_of(rows_of('wn', [0.2, 0.1, 0.01])).get_ylim()[0] == pytest.approx(0.0005)
  assert axes_of(rows_of('wn', [5.0, 0.1])).get_ylim()[0] == 0  # an error is not below 0
  assert axes_of(rows_of('wn', [5.0])).get_ylim() == (4.75, 5.25)


def test_axes_fit_the_seeds_and_not_their_interval():
  rows = pd.concat([rows_of('wn', [1.0, 2.0, last]).assign(seed=last) for last in (1, 2, 9)])
  low, high = axes_of(rows).get_ylim()  # the interval of 1, 2 and 9 goes from −7 to 15
  assert low >= 0 and high < 10


def test_the_paper_is_in_sight_of_a_run_that_ends_before_its_first_point():
  rows = rows_of('wn', [30, 20])
  points = drawing.paper_points(1, rows)
  axes = axes_of(rows, paper=points)
  assert axes.get_xlim()[1] > 12 and axes.get_ylim()[0] < 15
  long = axes_of(rows_of('wn', np.linspace(30, 5, 50)), paper=points)
  assert long.get_xlim()[1] == pytest.approx(51)
  assert 3.3 > long.get_ylim()[0] > 1.6  # of the paper's points up to there


def test_a_panel_without_rows():
  """As that of the returns of an agent that has not ended an episode in training."""
  rows = rows_of('wn', [1.0])
  panels = [Panel(rows, 'epoch', '', '', ''), Panel(rows[:0], 'epoch', '', '', '')]
  _, axes = drawing.draw([panels]).axes
  assert not axes.lines


def test_what_the_paper_does_not_have():
  assert drawing.paper_points(1, rows_of('plain_released', [1.0])) is None
