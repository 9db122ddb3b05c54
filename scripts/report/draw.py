"""Figure 3 of the paper from runs of DRAW."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.results import Run
from scripts.report import curves, diagnostics
from scripts.report.parts import Picture, Section, Table

METRIC = 'test/nll_bound'
KEYS = frozenset({'dataset', 'glimpses', 'read_window', 'epochs', 'learning_rate'})  # of a config
_PICTURES = {
  'samples.png': 'samples from the prior',
  'drawing.gif': 'samples while they are drawn, with the windows that are written through',
  'kl_per_glimpse.png': 'the KL of each glimpse on the test set, over training',
}


def section(
  runs: Sequence[Run], name: str, title: str, steps: Path | None = None, note: str = ''
) -> tuple[Section | None, list[str]]:
  """The section of runs that differ only in attention, parameterisation and seed.

  Args:
    runs: finished runs.
    name: of the section.
    title: its heading.
    steps: not used: time is that of the runs themselves.
    note: sentence for the caption.

  Returns:
    The section, or None if no run can be used; and a line for each run that cannot.
  """
  del steps
  order = sorted({run.config['variant'] for run in runs})
  runs, problems = curves.whole(runs, METRIC, order)
  if not runs:
    return None, problems
  rows = curves.evaluations(runs, METRIC)
  config = runs[0].config
  best = curves.best_rates(rows)
  best_runs = [run for run in runs if run.config['learning_rate'] == best[run.config['variant']]]
  chosen = rows[rows['learning_rate'] == rows['variant'].map(best)]
  tried = rows['learning_rate'].nunique()
  size = f'{config["glimpses"]} glimpses'
  caption = (
    f'Bound on −log p(x) in nats on {config["dataset"]}, test images binarised once: {size} '
    f'(paper: 64), read window {config["read_window"]}×{config["read_window"]} (paper: 2×2), '
    f'{config["epochs"]} epochs (paper: 100), {_rate(config, tried)} (paper: 0.0003).'
  )
  table = curves.table(chosen, (1, 2, 5, 10, 20, 50), with_rates=tried > 1)
  tables = [Table('table', table, ' '.join(filter(None, [caption, note])))]
  if tried > 1:
    rates = 'The bound after the last epoch, by learning rate; the best of each in bold.'
    tables.append(Table('learning_rates', curves.rate_table(rows), rates))
  speed = updates_to_plain(chosen)
  if not speed.empty:
    about_speed = (
      'Updates after which `wn` is where `plain` ends, between two evaluations by a straight line: '
      'the mean over the seeds of `wn` that come there.'
    )
    tables.append(Table('updates', speed, about_speed))
  early = chosen.loc[chosen['epoch'] == min(2, config['epochs']), 'value'].max()
  figure = curves.draw(
    chosen,
    f'{config["dataset"]}, {size}',
    ylabel='bound on −log p(x) (nats)',
    ylim=(None, early),  # the first epoch is far above
    x='updates',
  )
  pictures = [
    Picture('bound', figure, curves.about_time(runs)),
    *curves.pictures_of_runs(best_runs, _PICTURES),
    *diagnostics.pictures(best_runs),
  ]
  return Section(name, title, runs, tables, pictures, {'bound': curves.by_run(chosen)}), problems


def _rate(config: dict[str, Any], tried: int) -> str:
  if tried > 1:
    return f'the best of {tried} learning rates for each by the bound after the last epoch'
  return f'learning rate {config["learning_rate"]:g}'


def updates_to_plain(rows: pd.DataFrame) -> pd.DataFrame:
  """How soon `wn` reaches the final bound of `plain`: a row for each pair of variants, as text."""
  cells = []
  for plain in (variant for variant in rows['variant'].unique() if variant.startswith('plain')):
    variant = plain.replace('plain', 'wn', 1)
    wn = rows[rows['variant'] == variant]
    if wn.empty:
      continue
    last = curves.last_epoch(rows[rows['variant'] == plain])
    goal = last['value'].mean()
    needed = [first_update(seed, goal) for _, seed in wn.groupby('seed')]
    reached = pd.Series([updates for updates in needed if updates is not None], dtype=float)
    cells.append(
      {
        'pair': f'`{variant}`, `{plain}`',
        'final bound of plain': curves.mean_and_error(last['value']),
        'its updates': f'{last["updates"].iloc[0]:,}',
        'updates of wn to reach it': _mean_and_error(reached),
        'seeds that reach it': f'{len(reached)} of {len(needed)}',
        'share': f'{reached.mean() / last["updates"].iloc[0]:.2f}' if len(reached) else '–',
      }
    )
  return pd.DataFrame(cells)


def first_update(run: pd.DataFrame, goal: float) -> float | None:
  """Updates at which the values of a run first come down to `goal`; None if they do not.

  Between two evaluations the value is a straight line; a run that is there at its first evaluation
  counts from there.
  """
  run = run.sort_values('updates')
  updates, values = run['updates'].to_numpy(float), run['value'].to_numpy(float)
  reached = np.flatnonzero(values <= goal)
  if not len(reached):
    return None
  i = reached[0]
  if i == 0:
    return float(updates[0])
  share = (values[i - 1] - goal) / (values[i - 1] - values[i])
  return float(updates[i - 1] + share * (updates[i] - updates[i - 1]))


def _mean_and_error(updates: pd.Series) -> str:
  if updates.empty:
    return '–'
  error = f' ± {updates.sem():,.0f}' if len(updates) > 1 else ''
  return f'{updates.mean():,.0f}{error}'
