"""Draws curves: one color per parameterization, the paper's values beside ours."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scripts.report import paper as paper_lib
from scripts.report import seeds
from scripts.report.evaluations import Comparison, with_mean_minutes

# The color-blind safe palette of Okabe & Ito.
COLORS = {
  'plain': '#0072B2',
  'wn': '#D55E00',
  'bn': '#009E73',
  'mean_bn': '#CC79A7',
  'wn_mean_bn': '#E69F00',
  'plain_released': '#56B4E9',
}
_DASHED = {'diag', 'noattention'}  # labels with these are dash-dotted
_PAPER = {'ls': '--', 'lw': 1.2, 'marker': 'o', 'ms': 6, 'mfc': 'none', 'alpha': 0.6, 'zorder': 2.5}
_DOTS = 30  # curves with at most this many evaluations have markers


@dataclasses.dataclass(frozen=True)
class Panel:
  """One panel of a figure.

  Attributes:
    rows: from `evaluations`.
    x: column for the horizontal axis.
    paper: from `paper_points`; shown up to the end of `rows`, but at least its first point. Without
      `rows`, all of it is shown.
    level: name and value of a horizontal line.
    fit_from: the vertical axis fits values from this x on.
  """

  rows: pd.DataFrame
  x: str
  title: str
  xlabel: str
  ylabel: str
  paper: pd.DataFrame | None = None
  level: tuple[str, float] | None = None
  fit_from: float = -np.inf


def style(label: str) -> str:
  """Line style of a variant."""
  return '-.' if set(label.split('-')) & _DASHED else '-'


def after_the_start(rows: pd.DataFrame, x: str = 'epoch') -> float:
  """The x after a tenth of the epochs; earlier values would squash the rest."""
  return float(rows.loc[rows['epoch'] > rows['epoch'].max() // 10, x].min())


def paper_points(number: int, rows: pd.DataFrame) -> pd.DataFrame | None:
  """The points of a figure of the paper for the variants in `rows`; None if there are none."""
  points = paper_lib.figure(number)
  names = rows.drop_duplicates('variant').set_index('variant')['parameterization']
  points = points[points['series'].isin(names.index)]
  return points.assign(parameterization=points['series'].map(names)) if len(points) else None


def draw(rows_of_panels: Sequence[Sequence[Panel]], paper_label: str = 'paper') -> Figure:
  """Draws a grid of panels above a common legend."""
  count, width = len(rows_of_panels), max(map(len, rows_of_panels))
  size = (max(6 * width, 7) if width < 3 else 15, 4 * count + 0.5)
  figure = Figure(figsize=size, layout='constrained')
  handles: dict[str, Any] = {}
  for panels, row in zip(rows_of_panels, figure.subplots(count, width, squeeze=False)):
    for panel, axes in zip(panels, row):
      _draw_panel(axes, panel, paper_label, handles)
    for axes in row[len(panels) :]:
      axes.remove()
  legend(figure, handles, last=(paper_label, 'random play'))
  return figure


def against_time(comparison: Comparison, title: str) -> Figure:
  """Draws the value against minutes of training."""
  rows = with_mean_minutes(comparison.chosen)
  fit_from = after_the_start(rows, 'minutes')
  panel = Panel(rows, 'minutes', title, 'minutes', comparison.measure.label, fit_from=fit_from)
  return draw([[panel]])


def legend(figure: Figure, handles: Mapping[str, Any], last: Sequence[str] = ()) -> None:
  """Adds one legend below all panels, with the names in `last` at its end."""
  names = sorted(handles, key=lambda name: last.index(name) if name in last else -1)
  ncols = int(figure.get_figwidth() // 1.7)
  figure.legend([handles[name] for name in names], names, loc='outside lower center', ncols=ncols)


def _draw_panel(axes: Axes, panel: Panel, paper_label: str, handles: dict[str, Any]) -> None:
  """Draws a panel and adds its lines to `handles`."""
  shown: list[tuple[float, float]] = []  # points that the vertical axis must include
  early: list[float] = []  # values before `fit_from`
  for label, group in panel.rows.groupby('label', sort=False):
    color = COLORS[group['parameterization'].iloc[0]]
    by_x = group.groupby(panel.x)['value']
    x, mean = by_x.mean().index.to_numpy(float), by_x.mean().to_numpy()
    low, high = np.array([seeds.bounds(values) for _, values in by_x]).T
    marker = 'o' if len(x) <= _DOTS else None
    (line,) = axes.plot(x, mean, color=color, ls=style(label), marker=marker, ms=3, label=label)
    axes.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
    handles.setdefault(label, line)
    is_shown = x >= panel.fit_from
    # The axis fits the seeds; an interval may reach beyond, as that of an error below 0.
    for ends in (by_x.min().to_numpy(), by_x.max().to_numpy()):
      shown += [*zip(x[is_shown], ends[is_shown])]
    early += list(mean[~is_shown])
  right = max((x for x, _ in shown), default=1.0)
  if panel.paper is not None:
    first, last = panel.paper['x'].min(), panel.paper['x'].max()
    right = last if not shown else 1.1 * first if right < first else right
    shown += _draw_paper(axes, panel.paper, right)
    handles.setdefault(paper_label, Line2D([], [], color='0.3', **_PAPER))
  if panel.level:
    name, value = panel.level
    handles.setdefault(name, axes.axhline(value, color='0.5', ls=':', lw=1.2))
    shown.append((right, value))
  axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title, xlim=(0, 1.02 * right))
  steps = [1, 2, 2.5, 5, 10]
  axes.xaxis.set_major_locator(MaxNLocator('auto', steps=steps, integer=panel.x == 'epoch'))
  if shown:
    _fit(axes, [y for _, y in shown])
    low, high = axes.get_ylim()
    if any(not low <= y <= high for y in early):
      axes.set_xlabel(f'{panel.xlabel} (the first values are off the scale)')
  axes.grid(alpha=0.3)


def _draw_paper(axes: Axes, points: pd.DataFrame, right: float) -> list[tuple[float, float]]:
  """Draws the paper's curves; returns their points up to x = `right`."""
  shown = []
  for _, group in points.groupby('series', sort=False):
    color = COLORS[group['parameterization'].iloc[0]]
    x, y, error = (group[name].to_numpy(float) for name in ('x', 'y', 'error'))
    axes.plot(x, y, color=color, **_PAPER)
    bars = ~np.isnan(error)
    axes.errorbar(x[bars], y[bars], error[bars], color=color, ls='none', alpha=0.6, capsize=3)
    shown += [*zip(x[x <= right], y[x <= right])]
    if x[0] <= right < x[-1]:
      shown.append((right, float(np.interp(right, x, y))))
  return shown


def _fit(axes: Axes, values: Sequence[float]) -> None:
  """Fits the vertical axis to the values with a margin, which stays above 0 if they do."""
  low, high = min(values), max(values)
  margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
  axes.set_ylim(max(low - margin, 0.0) if low >= 0 else low - margin, high + margin)
