"""Makes the tables of a report, with cells of text."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.results import Run
from scripts.report.evaluations import Comparison, Measure, last_epoch
from scripts.report.section import UNFINISHED, Table
from scripts.report.seeds import over_seeds


def first_cells(comparison: Comparison, variant: str, *, with_rates: bool = True) -> dict[str, str]:
  """The first cells in the row of a variant: name, seeds and, `with_rates`, learning rates."""
  rate = comparison.best[variant]
  group = comparison.values[comparison.values['variant'] == variant]
  seeds = str(int((group['learning_rate'] == rate).sum()))
  lost = comparison.diverged
  if count := int(((lost['variant'] == variant) & (lost['learning_rate'] == rate)).sum()):
    seeds += f', {count} diverged'
  cells = {'parameterization': f'`{variant}`', 'seeds': seeds}
  if with_rates:
    tried = ', '.join(
      [f'{r:g}' for r in comparison.rates(variant)]
      + [f'{r:g} (unfinished)' for r in comparison.unfinished_rates(variant)]
    )
    cells |= {'learning rate': f'{rate:g}', 'tried': tried}
  return cells


def with_diverged(table: Table, comparison: Comparison) -> Table:
  """Adds a row for each variant with diverged runs and no finished one, as its curve is missing."""
  lost = comparison.diverged[~comparison.diverged['variant'].isin(comparison.values['variant'])]
  rows = []
  for variant, group in lost.groupby('variant', sort=False):
    is_game = 'game' in table.frame
    row = dict.fromkeys(table.frame, '–')
    row['parameterization'] = f'`{group["parameterization"].iloc[0] if is_game else variant}`'
    row['seeds'] = f'0, {len(group)} diverged'
    row |= {'game': group['game'].iloc[0]} if is_game else {}
    if 'tried' in row:
      row['tried'] = ', '.join(f'{rate:g}' for rate in comparison.rates(variant))
    rows.append(row)
  if not rows:
    return table
  return dataclasses.replace(table, frame=pd.concat([table.frame, pd.DataFrame(rows)]))


def over_epochs(comparison: Comparison, epochs: Sequence[int]) -> pd.DataFrame:
  """A row per variant, with its value after `epochs` and after the last epoch."""
  rows = comparison.chosen
  shown = sorted({*epochs, *last_epoch(rows)['epoch']} & set(rows['epoch']))
  cells = []
  for variant, group in rows.groupby('variant', sort=False):
    row = first_cells(comparison, variant, with_rates=comparison.tried > 1)
    for epoch in shown:
      row[f'epoch {epoch}'] = over_seeds(group.loc[group['epoch'] == epoch, 'value'])
    cells.append(row)
  return pd.DataFrame(cells)


def by_rate(comparison: Comparison) -> pd.DataFrame:
  """A row per variant and a column per learning rate, with the chosen rate in bold."""
  values, diverged = comparison.values, comparison.diverged
  both = pd.concat([values, diverged])
  cells = []
  for variant in both['variant'].unique():
    row = {'parameterization': f'`{variant}`'}
    for rate in sorted(both['learning_rate'].unique()):
      finished = _at(values, variant, rate)['value']
      text = over_seeds(finished)
      if lost := len(_at(diverged, variant, rate)):
        text = f'{text}, {lost} diverged' if len(finished) else 'diverged'
      if rate in comparison.unfinished_rates(variant):
        text = 'unfinished'
      row[f'{rate:g}'] = f'**{text}**' if rate == comparison.best.get(variant) else text
    cells.append(row)
  return pd.DataFrame(cells)


def by_run(rows: pd.DataFrame) -> pd.DataFrame:
  """A row per epoch and a column per run."""
  wide = rows.pivot_table(index='epoch', columns=['variant', 'seed'], values='value', sort=False)
  wide.columns = [f'{variant}/seed{seed}' for variant, seed in wide.columns]
  return wide.sort_index().round(2).reset_index()


def unfinished(runs: Sequence[Run], measure: Measure) -> Table:
  """A row per run that was stopped or still runs, with the last value of `measure`."""
  cells = []
  for run in runs:
    rows = run.metrics.dropna(subset=measure.metric)
    cells.append(
      {
        'parameterization': f'`{run.variant}`',
        'learning rate': f'{run.learning_rate:g}',
        'seed': str(run.config['seed']),
        'epochs': f'{rows["epoch"].iloc[-1]:g} of {run.config["epochs"]}',
        f'last {measure.label}': f'{measure.scale * rows[measure.metric].iloc[-1]:.2f}',
      }
    )
  caption = 'Unfinished runs; the figures and the values of the other tables leave them out.'
  return Table(UNFINISHED, pd.DataFrame(cells), caption)


def measured_afterwards(comparison: Comparison, values: Mapping[str, list[float]]) -> list[str]:
  """A cell per variant, with a remark if some of its runs were not measured."""
  cells = []
  for variant in comparison.chosen['variant'].unique():
    found = pd.Series(values.get(variant, []), dtype=float)
    count = sum(run.variant == variant for run in comparison.runs)
    remark = f' ({len(found)} of {count})' if 0 < len(found) < count else ''
    cells.append(over_seeds(found) + remark)
  return cells


def _at(rows: pd.DataFrame, variant: str, rate: float) -> pd.DataFrame:
  return rows[(rows['variant'] == variant) & (rows['learning_rate'] == rate)]
