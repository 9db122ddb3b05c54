"""Results against the learning rate; weight normalization works over a wider range (§2.1)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from scripts.report import seeds
from scripts.report.drawing import COLORS, legend, style
from scripts.report.evaluations import Comparison
from scripts.report.section import Picture, Table, caption
from scripts.report.tables import by_rate


def picture(comparison: Comparison, what: str, difference: str) -> Picture:
  """The value, called `what`, against the learning rate; `difference` ends the caption."""
  text = f'{what} against learning rate: {seeds.about(comparison.values, "bar")}'
  text += '; crosses are runs that diverged.' if len(comparison.diverged) else '.'
  return Picture('learning_rates', draw(comparison), caption(text, difference))


def table(comparison: Comparison, what: str) -> Table:
  """The numbers of the picture."""
  return Table('learning_rates', by_rate(comparison), f'{what} by learning rate, the best in bold.')


def draw(comparison: Comparison) -> Figure:
  """Draws a panel per game (one without games), with a curve per variant."""
  games = list(comparison.values['game'].unique())
  figure = Figure(figsize=(7 if len(games) == 1 else 6 * len(games), 4.5), layout='constrained')
  handles: dict[str, Any] = {}
  for game, axes in zip(games, figure.subplots(1, len(games), squeeze=False).flat):
    shown = [rows[rows['game'] == game] for rows in (comparison.values, comparison.diverged)]
    _draw_panel(axes, *shown, comparison, handles)
    axes.set_title(game)
  if len(comparison.diverged):
    handles['diverged'] = Line2D([], [], color='0.3', ls='none', marker='x', ms=8, mew=2)
  legend(figure, handles, last=('diverged',))
  return figure


def _draw_panel(
  axes: Axes,
  values: pd.DataFrame,
  diverged: pd.DataFrame,
  comparison: Comparison,
  handles: dict[str, Any],
) -> None:
  both = pd.concat([values, diverged])
  rates = sorted(both['learning_rate'].unique())
  for label, group in values.groupby('label', sort=False):
    by_rate = group.groupby('learning_rate')['value']
    mean, ends = by_rate.mean(), np.array([seeds.bounds(values) for _, values in by_rate])
    error = np.abs(ends.T - mean.to_numpy())
    color = COLORS[group['parameterization'].iloc[0]]
    line, *_ = axes.errorbar(
      mean.index, mean, error, color=color, ls=style(label), marker='o', ms=5, capsize=3
    )
    handles.setdefault(label, line)
  # A cross for each variant and rate at the bad end of the axis, stacked.
  lost = diverged.drop_duplicates(['label', 'learning_rate'])
  for rate, group in lost.groupby('learning_rate'):
    for place, color in enumerate(group['parameterization'].map(COLORS)):
      height = 0.95 - 0.06 * place if comparison.measure.lower_is_better else 0.05 + 0.06 * place
      axes.plot(
        [rate], [height], 'x', color=color, ms=8, mew=2, transform=axes.get_xaxis_transform()
      )
  most = lost.groupby('learning_rate').size().max() if len(lost) else 0
  _fit(axes, values['value'], 0.07 * most, comparison.measure.lower_is_better)
  axes.set(xscale='log', xlabel='learning rate', ylabel=comparison.measure.label)
  axes.set_xlim(rates[0] / 1.25, rates[-1] * 1.25)
  axes.set_xticks(rates, [f'{rate:g}' for rate in rates])
  axes.set_xticks([], minor=True)
  axes.grid(alpha=0.3)


def _fit(axes: Axes, values: pd.Series, share: float, above: bool) -> None:
  """Fits the vertical axis to the values, leaving a share of it free above or below them.

  The axis is logarithmic if the values are positive and far apart, as when a run collapsed.
  """
  is_log = values.min() > 0 and values.max() > 3 * values.min()
  if is_log:
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
  low, high = np.log(axes.get_ylim()) if is_log else axes.get_ylim()
  room = (high - low) * share / (1 - share)
  limits = (low, high + room) if above else (low - room, high)
  axes.set_ylim(np.exp(limits) if is_log else limits)
