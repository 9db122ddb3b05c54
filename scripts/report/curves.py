"""What the sections share: evaluations as rows, means over seeds, tables and learning curves."""

import collections
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from experiments.results import Run
from experiments.training.errors import UserError
from scripts.report.parts import Picture


def whole(runs: Sequence[Run], metric: str, variants: Sequence[str]) -> tuple[list[Run], list[str]]:
  """The runs with an evaluation after every epoch, each once, in the order of `variants`.

  Also a line for each run that is left out.
  """
  problems: list[str] = []
  found: dict[tuple, Run] = {}
  for run in runs:
    config = run.config
    key = (config['variant'], config['learning_rate'], config['seed'])
    rows = run.metrics
    epochs = rows['epoch'][rows[metric].notna()] if metric in rows else []
    if config['variant'] not in variants:
      problems.append(f'{run.path} is of an unknown variant {config["variant"]!r}.')
    elif not np.array_equal(epochs, np.arange(1, config['epochs'] + 1)):
      problems.append(
        f'{run.path}/metrics.jsonl lacks evaluations: there should be {config["epochs"]}.'
      )
    elif key in found:
      problems.append(f'{run.path} has the same variant, rate and seed as {found[key].path}.')
    else:
      found[key] = run
  order = lambda key: (variants.index(key[0]), *key[1:])
  return [found[key] for key in sorted(found, key=order)], problems


def evaluations(
  runs: Sequence[Run],
  metric: str,
  *,
  scale: float = 1.0,
  step_seconds: Mapping[str, float] | None = None,
) -> pd.DataFrame:
  """A row for each evaluation: variant, seed, learning_rate, epoch, updates, value and minutes.

  Args:
    runs: finished runs.
    metric: the value, times `scale`.
    scale: 100 for per cent.
    step_seconds: variant → seconds of a step, to be multiplied by the steps; without, minutes are
      what the runs themselves took.
  """
  frames = []
  for run in runs:
    rows = run.metrics.dropna(subset=metric)
    variant = run.config['variant']
    seconds = rows['step'] * step_seconds[variant] if step_seconds else rows['seconds']
    frames.append(
      pd.DataFrame(
        {
          'variant': variant,
          'seed': run.config['seed'],
          'learning_rate': run.config['learning_rate'],
          'epoch': rows['epoch'].astype(int),
          'updates': rows['step'],
          'value': scale * rows[metric],
          'minutes': seconds / 60,
        }
      )
    )
  return pd.concat(frames, ignore_index=True)


def best_rates(rows: pd.DataFrame) -> dict[str, float]:
  """Variant → the learning rate with the smallest mean value after the last epoch."""
  means = last_epoch(rows).groupby(['variant', 'learning_rate'], sort=False)['value'].mean()
  return {variant: means[variant].idxmin() for variant in means.index.unique('variant')}


def last_epoch(rows: pd.DataFrame) -> pd.DataFrame:
  """The rows of the last epoch."""
  return rows[rows['epoch'] == rows['epoch'].max()]


def table(rows: pd.DataFrame, epochs: Sequence[int], *, with_rates: bool) -> pd.DataFrame:
  """The value after some epochs and the last: a row for each variant, means over seeds as text."""
  shown = sorted({*epochs, rows['epoch'].max()} & set(rows['epoch']))
  cells = []
  for variant, group in rows.groupby('variant', sort=False):
    row = {'parameterisation': f'`{variant}`', 'seeds': str(group['seed'].nunique())}
    if with_rates:
      row['learning rate'] = f'{group["learning_rate"].iloc[0]:g}'
    for epoch in shown:
      row[f'epoch {epoch}'] = mean_and_error(group.loc[group['epoch'] == epoch, 'value'])
    cells.append(row)
  return pd.DataFrame(cells)


def rate_table(rows: pd.DataFrame) -> pd.DataFrame:
  """The value after the last epoch: a row for each variant, a column for each learning rate."""
  best, cells = best_rates(rows), []
  for variant, group in last_epoch(rows).groupby('variant', sort=False):
    row = {'parameterisation': f'`{variant}`'}
    for rate in sorted(rows['learning_rate'].unique()):
      values = group.loc[group['learning_rate'] == rate, 'value']
      text = mean_and_error(values)
      row[f'{rate:g}'] = f'**{text}**' if rate == best[variant] else text
    cells.append(row)
  return pd.DataFrame(cells)


def by_run(rows: pd.DataFrame) -> pd.DataFrame:
  """The value after each epoch, a column for each run."""
  wide = rows.pivot_table(index='epoch', columns=['variant', 'seed'], values='value', sort=False)
  wide.columns = [f'{variant}/seed{seed}' for variant, seed in wide.columns]
  return wide.sort_index().round(2).reset_index()


def mean_and_error(values: pd.Series) -> str:
  """'12.30 ± 0.40': mean over seeds and its standard error; no error for one seed, '–' for none."""
  if values.empty:
    return '–'
  error = f' ± {values.sem():.2f}' if len(values) > 1 else ''
  return f'{values.mean():.2f}{error}'


def afterwards(
  runs: Sequence[Run], name: str, value: Callable[[dict[str, Any], Run], float]
) -> tuple[int, dict[str, str]] | None:
  """What was measured on finished runs, from the `NAME-N.json` that are in any of them.

  Args:
    runs: finished runs.
    name: of the files.
    value: (what is in a file, its run) → number.

  Returns:
    The N that most runs have, the largest of several; and variant → `mean_and_error`, with a remark
    if not all of its runs have the file. None if no run has one.

  Raises:
    UserError: a file is damaged.
  """
  values: dict[int, list[tuple[str, float]]] = {}  # N → variant and number of the runs that have it
  for run in runs:
    for path in run.path.glob(f'{name}-*.json'):
      if (number := path.stem.removeprefix(f'{name}-')).isdecimal():
        try:
          measured = float(value(json.loads(path.read_text()), run))
        except (ValueError, KeyError, TypeError) as error:
          raise UserError(f'{path} is damaged ({error}); restore or remove it.') from error
        values.setdefault(int(number), []).append((run.config['variant'], measured))
  if not values:
    return None
  number = max(values, key=lambda n: (len(values[n]), n))
  counts = collections.Counter(run.config['variant'] for run in runs)
  cells = {}
  for variant, count in counts.items():
    found = pd.Series([x for of, x in values[number] if of == variant], dtype=float)
    remark = f' ({len(found)} of {count})' if 0 < len(found) < count else ''
    cells[variant] = mean_and_error(found) + remark
  return number, cells


def about_time(runs: Sequence[Run]) -> str:
  """What the time axis of a figure shows if it is that of the runs."""
  kinds = sorted({(run.summary or {}).get('device', {}).get('kind', '') for run in runs} - {''})
  where = f' on {", ".join(kinds)}' if kinds else ''
  return f'Time is what the runs took{where}, with whatever else the machine did.'


def pictures_of_runs(runs: Sequence[Run], names: Mapping[str, str]) -> list[Picture]:
  """The pictures that the first run of each variant has written.

  Args:
    runs: all of them.
    names: of a PNG or GIF in the directory of a run → what it shows.
  """
  firsts: dict[str, Run] = {}
  for run in runs:
    firsts.setdefault(run.config['variant'], run)
  return [
    Picture(
      f'{variant}/seed{run.config["seed"]}/{Path(name).stem}',
      run.path / name,
      f'`{variant}`, seed {run.config["seed"]}: {what}.',
    )
    for variant, run in firsts.items()
    for name, what in names.items()
    if (run.path / name).exists()
  ]


def draw(
  rows: pd.DataFrame, title: str, ylabel: str, ylim: tuple = (0, None), *, x: str = 'epoch'
) -> Figure:
  """The value against `x` and time; mean over seeds, with a band of one standard error.

  Args:
    rows: of `evaluations`.
    title: of the left panel.
    ylabel: what the value is.
    ylim: of both panels.
    x: of the left panel, 'epoch' or 'updates'.
  """
  # Seeds take different times for an epoch; a curve needs one.
  means = rows.groupby(['variant', 'epoch'])['minutes'].transform('mean')
  rows = rows.assign(minutes=means)
  figure = Figure(figsize=(12, 4), layout='constrained')
  titles = {x: title, 'minutes': 'against time'}
  for axes, column in zip(figure.subplots(1, 2), titles, strict=True):
    sns.lineplot(rows, x=column, y='value', hue='variant', errorbar='se', marker='.', ax=axes)
    axes.set(xlabel=column, ylabel=ylabel, title=titles[column], xlim=(0, None), ylim=ylim)
    axes.grid(alpha=0.3)
    axes.legend()
  axes.get_legend().remove()
  return figure
