"""Figure 4 of the paper from runs of DRAW."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report import (
  diagnostics,
  drawing,
  evaluations,
  paper,
  pictures_of_runs,
  protocol,
  provenance,
  rates,
  selection,
  tables,
)
from scripts.report.drawing import Panel
from scripts.report.evaluations import Comparison, Measure
from scripts.report.section import Picture, Section, Table, caption

BOUND = Measure('test/nll_bound', 'bound on log p(x) in nats', scale=-1, lower_is_better=False)
KEYS = frozenset({'variant.option'})  # of a config
_PICTURES = {
  'samples.png': 'samples from the prior',
  'drawing.gif': 'samples while they are drawn, with the windows that are written through',
  'kl_per_glimpse.png': 'the KL of each glimpse on the test set, over training',
}


def section(
  runs: Sequence[Run], name: str, changes: str = '', steps: Path | None = None, note: str = ''
) -> tuple[Section | None, list[str]]:
  """The section of runs that differ only in attention, parameterisation, seed and learning rate.

  Args:
    runs: finished or diverged runs on the same data.
    name: of the section.
    changes: how they differ from those of another section with their protocol, for the heading.
    steps: not used: time is that of the runs themselves.
    note: sentence for the caption: what it shows.

  Returns:
    The section, or None if no run can be used; and a line for each run that cannot.
  """
  del steps
  usable = selection.select(runs, [BOUND.metric])
  if not (runs := usable.finished):
    return None, usable.problems
  comparison = evaluations.compare(usable, BOUND)
  dataset, difference = runs[0].data['name'], protocol.about(runs)
  figure = 'Figure 4' if dataset == 'mnist' else 'As Figure 4'
  about = (
    f"{figure}: DRAW's bound on log p(x) of the test images of {dataset} in nats, mean over seeds "
    f'with a band of one standard error; {evaluations.about_time(runs)}.'
  )
  pictures = [
    Picture('figure4', _figure4(comparison, dataset), caption(about, difference, note)),
  ]
  text = f'{BOUND.label.capitalize()} after so many epochs, mean over seeds ± standard error.'
  made = [Table('bound', _table(comparison, dataset), text)]
  if comparison.tried > 1:
    what = f'{BOUND.label.capitalize()} after the last epoch'
    pictures.append(rates.picture(comparison, what, difference))
    made.append(rates.table(comparison, what))
  speed = updates_to_plain(comparison.chosen)
  if not speed.empty:
    about_speed = (
      'Updates after which `wn` is where `plain` ends, between two evaluations by a straight line: '
      'the mean over the seeds of `wn` that come there.'
    )
    made.append(Table('updates', speed, about_speed))
  pictures += pictures_of_runs.find(comparison.runs, _PICTURES)
  pictures += diagnostics.pictures(comparison.runs)
  title = f'{figure}: DRAW on {dataset}, protocol {runs[0].config["protocol"]}{changes}'
  data = {'bound_by_run': tables.by_run(comparison.chosen)}
  shown = [*runs, *usable.diverged]
  source = provenance.sentence(runs)
  return Section(name, title, shown, pictures, made, data, source), usable.problems


def _figure4(comparison: Comparison, dataset: str) -> Figure:
  rows = comparison.chosen
  timed = evaluations.with_mean_minutes(rows)
  points = drawing.paper_points(4, rows) if dataset == 'mnist' else None
  fit = drawing.after_the_start
  panels = [
    Panel(rows, 'epoch', dataset, 'epoch', BOUND.label, points, fit_from=fit(rows)),
    Panel(timed, 'minutes', 'against time', 'minutes', BOUND.label, fit_from=fit(timed, 'minutes')),
  ]
  return drawing.draw([panels], protocol.paper_label(comparison.runs))


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
  """How soon `wn` reaches the final bound of `plain`: a row for each pair of variants, as text."""
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
        'final bound of plain': tables.mean_and_error(last['value']),
        'its updates': f'{last["updates"].iloc[0]:,}',
        'updates of wn to reach it': _mean_and_error(reached),
        'seeds that reach it': f'{len(reached)} of {len(needed)}',
        'share': f'{reached.mean() / last["updates"].iloc[0]:.2f}' if len(reached) else '–',
      }
    )
  return pd.DataFrame(cells)


def first_update(run: pd.DataFrame, goal: float) -> float | None:
  """Updates at which the values of a run first come up to `goal`; None if they do not.

  Between two evaluations the value is a straight line; a run that is there at its first evaluation
  counts from there.
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


def _mean_and_error(updates: pd.Series) -> str:
  if updates.empty:
    return '–'
  error = f' ± {updates.sem():,.0f}' if len(updates) > 1 else ''
  return f'{updates.mean():,.0f}{error}'
