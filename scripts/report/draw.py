"""Figure 4 of the paper, from runs of DRAW."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts.report import drawing, evaluations, paper, protocol, seeds, tables, times
from scripts.report.drawing import Panel
from scripts.report.evaluations import Comparison, Measure
from scripts.report.section import Content, Picture, Table
from scripts.report.seeds import over_seeds
from scripts.report.selection import Usable

BOUND = Measure('test/nll_bound', 'bound on log p(x) in nats', scale=-1, lower_is_better=False)
KEYS = frozenset({'variant.option'})  # of the config
_PICTURES = {
  'samples.png': 'samples from the prior',
  'drawing.gif': 'samples as they are drawn, with the write windows',
  'kl_per_glimpse.png': 'the KL of each glimpse on the test set, over training',
}


def measures(config: Mapping[str, Any]) -> tuple[Measure, ...]:
  """The bound."""
  del config
  return (BOUND,)


def content(usable: Usable) -> Content:
  """The bound against epochs and time, and the updates that `wn` needs to catch up with `plain`."""
  runs = usable.finished
  comparison = evaluations.compare(usable, BOUND)
  dataset = runs[0].data['name']
  figure = 'Figure 4' if dataset == 'mnist' else 'As Figure 4'
  about = (
    f"{figure}: DRAW's bound on log p(x) of the test images of {dataset} in nats, "
    f'{seeds.about(comparison.chosen, "band")}.'
  )
  bound = BOUND.label.capitalize()
  about_table = f'{bound} by epoch, {seeds.about(comparison.chosen)}.'
  made = [Table('bound', _table(comparison, dataset), about_table)]
  speed = updates_to_plain(comparison.chosen)
  if not speed.empty:
    about_speed = (
      'Updates after which `wn` reaches the final bound of `plain`, interpolated linearly between '
      f'evaluations, for the seeds of `wn` that reach it: {seeds.about(comparison.chosen)}.'
    )
    made.append(Table('updates', speed, about_speed))
  return Content(
    heading=f'{figure}: DRAW on {dataset}',
    comparison=comparison,
    value=f'{bound} after the last epoch',
    pictures=[
      Picture('figure4', _figure4(comparison, dataset), about),
      *times.pictures(usable, comparison, 'bound_time', dataset, 'The same against time'),
    ],
    tables=made,
    data={'bound_by_run': comparison.chosen},
    run_pictures=_PICTURES,
  )


def _figure4(comparison: Comparison, dataset: str) -> Figure:
  rows = comparison.chosen
  points = drawing.paper_points(4, rows) if dataset == 'mnist' else None
  fit_from = drawing.after_the_start(rows)
  panel = Panel(rows, 'epoch', dataset, 'epoch', BOUND.label, points, fit_from=fit_from)
  return drawing.draw([[panel]], protocol.paper_label(comparison.runs))


def _table(comparison: Comparison, dataset: str) -> pd.DataFrame:
  table = tables.over_epochs(comparison, (1, 2, 5, 10, 20, 50))
  if dataset == 'mnist':
    in_paper = paper.last(4)
    table['paper, 100 epochs'] = [
      f'{in_paper[variant]:.1f}' if variant in in_paper else '–'
      for variant in comparison.chosen['variant'].unique()
    ]
  return table


def updates_to_plain(rows: pd.DataFrame) -> pd.DataFrame:
  """When `wn` reaches the final bound of `plain`: a row of text for each pair of variants."""
  cells = []
  for plain in (variant for variant in rows['variant'].unique() if variant.startswith('plain')):
    variant = plain.replace('plain', 'wn', 1)
    wn = rows[rows['variant'] == variant]
    if wn.empty:
      continue
    last = evaluations.last_epoch(rows[rows['variant'] == plain])
    goal = last['value'].mean()
    needed = [first_update(seed, goal) for _, seed in wn.groupby('seed')]
    reached = pd.Series([updates for updates in needed if updates is not None], dtype=float)
    cells.append(
      {
        'pair': f'`{variant}`, `{plain}`',
        'final bound of plain': over_seeds(last['value']),
        'its updates': f'{last["updates"].iloc[0]:,}',
        'updates of wn to reach it': over_seeds(reached, 0),
        'seeds that reach it': f'{len(reached)} of {len(needed)}',
        'share': f'{reached.mean() / last["updates"].iloc[0]:.2f}' if len(reached) else '–',
      }
    )
  return pd.DataFrame(cells)


def first_update(run: pd.DataFrame, goal: float) -> float | None:
  """Updates at which the value of a run first reaches `goal`; None if it never does.

  Interpolates linearly between evaluations, but not before the first.
  """
  run = run.sort_values('updates')
  updates, values = run['updates'].to_numpy(float), run['value'].to_numpy(float)
  reached = np.flatnonzero(values >= goal)
  if not len(reached):
    return None
  i = reached[0]
  if i == 0:
    return float(updates[0])
  share = (goal - values[i - 1]) / (values[i] - values[i - 1])
  return float(updates[i - 1] + share * (updates[i] - updates[i - 1]))
