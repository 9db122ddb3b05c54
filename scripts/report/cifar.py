"""Table 1 and Figure 1 of the paper from runs of the CIFAR-10 experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report import diagnostics, step_times
from scripts.report.parts import Picture, Section, Table

# Test error in %, Table 1 of the paper: 200 epochs at width 96 on the original images.
PAPER = {'plain': 8.43, 'wn': 8.46, 'bn': 8.05, 'mean_bn': 8.52, 'wn_mean_bn': 7.31}


def section(
  runs: Sequence[Run], name: str, title: str, steps: Path | None = None, note: str = ''
) -> tuple[Section | None, list[str]]:
  """The section of runs that differ only in parameterisation, seed and learning rate.

  Args:
    runs: finished runs.
    name: of the section.
    title: its heading.
    steps: file of step times; without, time is that of the runs themselves.
    note: sentence for the caption.

  Returns:
    The section, or None if no run can be used; and a line for each run that cannot.

  Raises:
    UserError: `steps` has no times for these runs.
  """
  runs, problems = _whole(runs)
  if not runs:
    return None, problems
  errors = test_errors(runs, step_times.read(steps, runs) if steps else None)
  config = runs[0].config
  best = best_rates(errors)
  chosen = errors[errors['learning_rate'] == errors['variant'].map(best)]
  about_time = (
    'Time is the number of steps times the median time of a step.'
    if steps
    else 'Time is what the runs took, with whatever else the machine did.'
  )
  caption = ' '.join(filter(None, [_scale(config, best), note]))
  tables = [Table('table', final_table(chosen, config), caption)]
  pictures = [Picture('learning_curves', learning_curves(chosen, config), about_time)]
  if errors['learning_rate'].nunique() > 1:
    rates = 'Test error in % after the last epoch, by learning rate; the best of each in bold.'
    tables.append(Table('learning_rates', rate_table(errors), rates))
  pictures += diagnostics.pictures(runs)
  wide = chosen.pivot_table(index='epoch', columns=['variant', 'seed'], values='error', sort=False)
  wide.columns = [f'{variant}/seed{seed}' for variant, seed in wide.columns]
  data = {'test_error': wide.sort_index().round(2).reset_index()}
  return Section(name, title, runs, tables, pictures, data), problems


def test_errors(runs: Sequence[Run], step_seconds: dict[str, float] | None = None) -> pd.DataFrame:
  """A row for each evaluation: variant, seed, learning_rate, epoch, error (%) and minutes.

  Minutes are steps times `step_seconds`, or what the runs themselves took.
  """
  frames = []
  for run in runs:
    rows = run.metrics.dropna(subset='test/error')
    variant = run.config['variant']
    seconds = rows['step'] * step_seconds[variant] if step_seconds else rows['seconds']
    frames.append(
      pd.DataFrame(
        {
          'variant': variant,
          'seed': run.config['seed'],
          'learning_rate': run.config['learning_rate'],
          'epoch': rows['epoch'].astype(int),
          'error': 100 * rows['test/error'],
          'minutes': seconds / 60,
        }
      )
    )
  return pd.concat(frames, ignore_index=True)


def best_rates(errors: pd.DataFrame) -> dict[str, float]:
  """Variant → the learning rate with the smallest mean error after the last epoch."""
  means = last_epoch(errors).groupby(['variant', 'learning_rate'], sort=False)['error'].mean()
  return {variant: means[variant].idxmin() for variant in means.index.unique('variant')}


def last_epoch(errors: pd.DataFrame) -> pd.DataFrame:
  """The rows of the last epoch."""
  return errors[errors['epoch'] == errors['epoch'].max()]


def final_table(errors: pd.DataFrame, config: dict[str, Any]) -> pd.DataFrame:
  """Test error after the first epochs and the last; for CIFAR-10 with the paper's beside it."""
  epochs = errors['epoch'].max()
  shown = sorted({1, 2, 3, 5, epochs} & set(errors['epoch']))
  rows = []
  for variant, group in errors.groupby('variant', sort=False):
    row = {'parameterisation': f'`{variant}`', 'seeds': str(group['seed'].nunique())}
    if errors['learning_rate'].nunique() > 1:
      row['learning rate'] = f'{group["learning_rate"].iloc[0]:g}'
    for epoch in shown:
      row[f'epoch {epoch}'] = mean_and_error(group.loc[group['epoch'] == epoch, 'error'])
    if config['dataset'] == 'cifar10':
      row['paper, 200 epochs'] = f'{PAPER[variant]:.2f}'
    rows.append(row)
  return pd.DataFrame(rows)


def rate_table(errors: pd.DataFrame) -> pd.DataFrame:
  """Test error after the last epoch, a row for each parameterisation and a column for each rate."""
  best, rows = best_rates(errors), []
  for variant, group in last_epoch(errors).groupby('variant', sort=False):
    row = {'parameterisation': f'`{variant}`'}
    for rate in sorted(errors['learning_rate'].unique()):
      values = group.loc[group['learning_rate'] == rate, 'error']
      text = mean_and_error(values) if len(values) else '–'
      row[f'{rate:g}'] = f'**{text}**' if rate == best[variant] else text
    rows.append(row)
  return pd.DataFrame(rows)


def mean_and_error(values: pd.Series) -> str:
  """'12.30 ± 0.40': the mean over seeds and its standard error; without the error for one seed."""
  error = f' ± {values.sem():.2f}' if len(values) > 1 else ''
  return f'{values.mean():.2f}{error}'


def learning_curves(errors: pd.DataFrame, config: dict[str, Any]) -> Figure:
  """Figure 1: test error against epoch and time; mean over seeds, band of one standard error."""
  # Seeds take different times for an epoch; a curve needs one.
  means = errors.groupby(['variant', 'epoch'])['minutes'].transform('mean')
  errors = errors.assign(minutes=means)
  figure = Figure(figsize=(12, 4), layout='constrained')
  titles = {'epoch': f'{config["dataset"]}, width {config["width"]}', 'minutes': 'against time'}
  for axes, x in zip(figure.subplots(1, 2), titles, strict=True):
    sns.lineplot(errors, x=x, y='error', hue='variant', errorbar='se', marker='.', ax=axes)
    axes.set(xlabel=x, ylabel='test error (%)', title=titles[x], xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
  axes.get_legend().remove()
  return figure


def _whole(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
  """The runs with all their evaluations, each once, in the order of the paper's table."""
  problems: list[str] = []
  found: dict[tuple, Run] = {}
  for run in runs:
    config = run.config
    key = (config['variant'], config['learning_rate'], config['seed'])
    rows = run.metrics
    epochs = rows['epoch'][rows['test/error'].notna()] if 'test/error' in rows else []
    if config['variant'] not in PAPER:
      problems.append(f'{run.path} is of an unknown variant {config["variant"]!r}.')
    elif not np.array_equal(epochs, np.arange(1, config['epochs'] + 1)):
      problems.append(
        f'{run.path}/metrics.jsonl lacks evaluations: there should be {config["epochs"]}.'
      )
    elif key in found:
      problems.append(f'{run.path} has the same variant, rate and seed as {found[key].path}.')
    else:
      found[key] = run
  order = list(PAPER)
  return [found[key] for key in sorted(found, key=lambda k: (order.index(k[0]), *k[1:]))], problems


def _scale(config: dict[str, Any], rates: dict[str, float]) -> str:
  text = (
    f'Test error in % on {config["dataset"]}: width {config["width"]} (paper: 96), '
    f'{config["epochs"]} epochs (paper: 200), '
  )
  if len(set(rates.values())) > 1:
    return f'{text}the best learning rate of each by the error after the last epoch.'
  return f'{text}learning rate {next(iter(rates.values())):g}.'
