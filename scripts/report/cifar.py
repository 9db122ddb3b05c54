"""Figures 1 and 2 of the paper from runs of the CIFAR-10 experiment."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report import (
  diagnostics,
  drawing,
  evaluations,
  paper,
  protocol,
  provenance,
  rates,
  selection,
  step_times,
  tables,
)
from scripts.report.drawing import Panel
from scripts.report.evaluations import Comparison, Measure
from scripts.report.section import Picture, Section, Table, caption

TEST = Measure('test/error', 'test error (%)', scale=100)
TRAINING = Measure('train/error', 'training error (%)', scale=100)
KEYS = frozenset({'batch_size', 'model.width', 'model.dtype', 'run.cpu_winograd'})  # of a config


def section(
  runs: Sequence[Run], name: str, changes: str = '', steps: Path | None = None, note: str = ''
) -> tuple[Section | None, list[str]]:
  """The section of runs that differ only in parameterisation, seed and learning rate.

  Args:
    runs: finished or diverged runs on the same data.
    name: of the section.
    changes: how they differ from those of another section with their protocol, for the heading.
    steps: file of step times; without, time is that of the runs themselves.
    note: sentence for the caption: what it shows.

  Returns:
    The section, or None if no run can be used; and a line for each run that cannot.

  Raises:
    UserError: `steps` has no times for these runs.
  """
  usable = selection.select(runs, [TEST.metric, TRAINING.metric])
  if not (runs := usable.finished):
    return None, usable.problems
  comparison = evaluations.compare(
    usable, TEST, step_seconds=step_times.read(steps, runs) if steps else None
  )
  training = evaluations.training_means(comparison.runs, TRAINING)
  dataset, epochs = runs[0].data['name'], runs[0].config['epochs']
  difference = protocol.about(runs)
  about = (
    f'Figure 1: training error on {dataset} (of the minibatches, with noise and dropout, as a mean '
    'over each epoch) and beside it the test error; mean over seeds, with a band of one standard '
    f'error, at learning rate {_rates(comparison)}.'
  )
  figure = _figure1(comparison, training, dataset)
  about_time = evaluations.about_time(runs)
  if steps:
    about_time = 'time is the number of steps times the median time of a step'
  pictures = [
    Picture('figure1', figure, caption(about, difference, note)),
    Picture('test_error_time', _against_time(comparison, dataset), f'Test error; {about_time}.'),
  ]
  chosen = f'Figure 2: test error in % after {epochs} epochs, mean over seeds ± standard error'
  chosen += ', at the rate of those tried where it is lowest.' if comparison.tried > 1 else '.'
  made = [Table('figure2', _figure2(comparison, training, dataset), chosen)]
  if comparison.tried > 1:
    what = f'Test error in % after {epochs} epochs'
    pictures.append(rates.picture(comparison, what, difference))
    made.append(rates.table(comparison, what))
  pictures += diagnostics.pictures(comparison.runs)
  data = {'training_error': training, 'test_error': comparison.chosen}
  figures = 'Figures 1 and 2' if dataset == 'cifar10' else 'As Figures 1 and 2'
  title = f'{figures}: {dataset}, protocol {runs[0].config["protocol"]}{changes}'
  by_run = {stem: tables.by_run(rows) for stem, rows in data.items()}
  shown = [*runs, *usable.diverged]
  source = provenance.sentence(runs)
  return Section(name, title, shown, pictures, made, by_run, source), usable.problems


def _rates(comparison: Comparison) -> str:
  """'0.001', or '0.0003 (plain), 0.003 (wn, bn)': those of the curves."""
  rates = comparison.chosen.groupby('variant', sort=False)['learning_rate'].first()
  if rates.nunique() == 1:
    return f'{rates.iloc[0]:g}'
  of_rate = {rate: ', '.join(rates[rates == rate].index) for rate in sorted(rates.unique())}
  return ', '.join(f'{rate:g} ({variants})' for rate, variants in of_rate.items())


def _figure1(comparison: Comparison, training: pd.DataFrame, dataset: str) -> Figure:
  panels = []
  for number, measure, rows in ((1, TRAINING, training), (2, TEST, comparison.chosen)):
    points = drawing.paper_points(number, rows) if dataset == 'cifar10' else None
    if number == 2 and points is not None and rows['epoch'].max() < points['x'].min():
      points = None  # only the end of its curves is known
    fit_from = drawing.after_the_start(rows)
    title = measure.label.removesuffix(' (%)')
    panels.append(Panel(rows, 'epoch', title, 'epoch', measure.label, points, fit_from=fit_from))
  return drawing.draw([panels], protocol.paper_label(comparison.runs))


def _against_time(comparison: Comparison, dataset: str) -> Figure:
  rows = evaluations.with_mean_minutes(comparison.chosen)
  fit_from = drawing.after_the_start(rows, 'minutes')
  panel = Panel(rows, 'minutes', dataset, 'minutes', TEST.label, fit_from=fit_from)
  return drawing.draw([[panel]])


def _figure2(comparison: Comparison, training: pd.DataFrame, dataset: str) -> pd.DataFrame:
  values, in_paper = evaluations.last_epoch(comparison.chosen), paper.last(2)
  cells = []
  for variant, group in values.groupby('variant', sort=False):
    last = evaluations.last_epoch(training[training['variant'] == variant])
    row = tables.first_cells(comparison, variant)
    row['training error'] = tables.mean_and_error(last['value'])
    row['test error'] = tables.mean_and_error(group['value'])
    if dataset == 'cifar10':
      row['paper, 200 epochs'] = f'{in_paper[variant]:.2f}' if variant in in_paper else '–'
    cells.append(row)
  return pd.DataFrame(cells)
