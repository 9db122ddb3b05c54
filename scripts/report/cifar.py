"""Figures 1 and 2 of the paper, from runs on CIFAR-10."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from configs.cifar import RATE_OF
from scripts.report import drawing, evaluations, paper, protocol, seeds, tables, times
from scripts.report.drawing import Panel
from scripts.report.evaluations import Comparison, Measure
from scripts.report.section import Content, Picture, Table
from scripts.report.seeds import over_seeds
from scripts.report.selection import Usable

TEST = Measure('test/error', 'test error (%)', scale=100)
TRAINING = Measure('train/error', 'training error (%)', scale=100)
KEYS = frozenset({'batch_size', 'model.width', 'model.dtype', 'run.cpu_winograd'})  # of the config


def measures(config: Mapping[str, Any]) -> tuple[Measure, ...]:
  """Test and training error."""
  del config
  return TEST, TRAINING


def content(usable: Usable) -> Content:
  """Training and test error against epochs, and test error against time."""
  runs = usable.finished
  comparison = evaluations.compare(usable, TEST)
  # In the paper, Figure 1 has a rate for each parameterization, and Figure 2 the best of four.
  is_paper = runs[0].config['protocol'] == 'paper'
  drawn = evaluations.at_rates(comparison, usable, RATE_OF) if is_paper else comparison
  training = evaluations.training_means(drawn.runs, TRAINING)
  at_best = evaluations.training_means(comparison.runs, TRAINING)
  dataset, epochs = runs[0].data['name'], runs[0].config['epochs']
  about = (
    f'Figure 1: training error on {dataset} (of the minibatches, with noise and dropout, as a mean '
    f'over each epoch) and beside it the test error; {seeds.about(drawn.chosen, "band")}; '
    f'learning rate {_rates(drawn)}.'
  )
  chosen = f'Figure 2: test error in % after {epochs} epochs, {seeds.about(comparison.chosen)}'
  chosen += ', at the best learning rate of those tried.' if comparison.tried > 1 else '.'
  figures = 'Figures 1 and 2' if dataset == 'cifar10' else 'As Figures 1 and 2'
  return Content(
    heading=f'{figures}: {dataset}',
    comparison=comparison,
    value=f'Test error in % after {epochs} epochs',
    pictures=[
      Picture('figure1', _figure1(drawn, training, dataset), about),
      *times.pictures(usable, comparison, 'test_error_time', dataset, 'Test error'),
    ],
    tables=[Table('figure2', _figure2(comparison, at_best, dataset), chosen)],
    data={'training_error': training, 'test_error': drawn.chosen},
  )


def _rates(comparison: Comparison) -> str:
  """The learning rates of the curves: '0.001', or '0.0003 (plain), 0.003 (wn, bn)'."""
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
      points = None  # only the ends of the curves are known
    fit_from = drawing.after_the_start(rows)
    title = measure.label.removesuffix(' (%)')
    panels.append(Panel(rows, 'epoch', title, 'epoch', measure.label, points, fit_from=fit_from))
  return drawing.draw([panels], protocol.paper_label(comparison.runs))


def _figure2(comparison: Comparison, training: pd.DataFrame, dataset: str) -> pd.DataFrame:
  values, in_paper = evaluations.last_epoch(comparison.chosen), paper.last(2)
  cells = []
  for variant, group in values.groupby('variant', sort=False):
    last = evaluations.last_epoch(training[training['variant'] == variant])
    row = tables.first_cells(comparison, variant)
    row['training error'] = over_seeds(last['value'])
    row['test error'] = over_seeds(group['value'])
    if dataset == 'cifar10':
      row['paper, 200 epochs'] = f'{in_paper[variant]:.2f}' if variant in in_paper else '–'
    cells.append(row)
  return pd.DataFrame(cells)
