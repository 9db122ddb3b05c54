"""Figure 3 of the paper, from runs of the variational autoencoders."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report import drawing, evaluations, paper, protocol, seeds, tables, times
from scripts.report.drawing import Panel
from scripts.report.evaluations import Comparison, Measure
from scripts.report.section import Content, Picture, Table
from scripts.report.selection import Usable

NATS = Measure('test/nll_bound', 'bound on log p(x) in nats', scale=-1, lower_is_better=False)
BITS = Measure('test/bits_per_dim', 'bound on −log p(x) in bits per dimension')
KEYS = frozenset({'variant.dataset', 'variant.posterior'})  # of the config
_PICTURES = {
  'samples.png': 'samples from the prior',
  'reconstructions.png': 'test images, with their reconstructions below',
  'traversals.png': 'a test image with one latent varied from −3 to 3, a row per latent',
}


def measures(config: Mapping[str, Any]) -> tuple[Measure, ...]:
  """The bound: in bits per dimension on CIFAR-10, else in nats."""
  return (BITS if config['variant']['dataset'] == 'cifar10' else NATS,)


def content(usable: Usable) -> Content:
  """The bound against epochs and time, and log p(x) if it was estimated."""
  runs = usable.finished
  dataset = runs[0].config['variant']['dataset']
  (measure,) = measures(runs[0].config)
  comparison = evaluations.compare(usable, measure)
  figure = 'As Figure 3' if dataset == 'digits' else 'Figure 3'
  about = (
    f'{figure}: {measure.label} of the test images of {dataset}, '
    f'{seeds.about(comparison.chosen, "band")}'
  )
  if measure is BITS and drawing.paper_points(3, comparison.chosen) is not None:
    about += '; the paper (right) uses nats on another scale, where higher is better'
  bound = measure.label.capitalize()
  about_table = f'{bound} by epoch, {seeds.about(comparison.chosen)}.'
  return Content(
    heading=f'{figure}: VAE on {dataset}',
    comparison=comparison,
    value=f'{bound} after the last epoch',
    pictures=[
      Picture('figure3', _figure3(comparison, dataset), f'{about}.'),
      *times.pictures(usable, comparison, 'bound_time', dataset, 'The same against time'),
    ],
    tables=[Table('bound', _table(comparison, dataset), about_table)],
    data={'bound_by_run': comparison.chosen},
    run_pictures=_PICTURES,
  )


def _figure3(comparison: Comparison, dataset: str) -> Figure:
  rows, label = comparison.chosen, comparison.measure.label
  points = drawing.paper_points(3, rows)
  overlaid = points if dataset == 'mnist' else None
  fit_from = drawing.after_the_start(rows)
  panels = [Panel(rows, 'epoch', dataset, 'epoch', label, overlaid, fit_from=fit_from)]
  if comparison.measure is BITS and points is not None:
    nats = f'{NATS.label}, another scale'
    panels.append(Panel(rows.iloc[:0], 'epoch', 'the paper', 'epoch', nats, points))
  return drawing.draw([panels], protocol.paper_label(comparison.runs))


def _table(comparison: Comparison, dataset: str) -> pd.DataFrame:
  table = tables.over_epochs(comparison, (1, 2, 5, 10, 20, 50, 100, 200))
  variants = comparison.chosen['variant'].unique()
  is_binary = comparison.measure is NATS

  def log_p(result: dict[str, Any], run: Run) -> float:
    if result['step'] != run.metrics['step'].max():
      raise evaluations.OutOfDate('is from before the last step; run experiments.vae.likelihood.')
    return result['log_likelihood'] if is_binary else result['bits_per_dim']

  if likelihoods := evaluations.afterwards(comparison.runs, 'likelihood', log_p):
    samples, values = likelihoods
    column = f'{"" if is_binary else "−"}log p(x), {samples} samples'
    table[column] = tables.measured_afterwards(comparison, values)
  if dataset == 'mnist':
    in_paper = paper.last(3)
    table['paper, 300 epochs'] = [
      f'{in_paper[variant]:.2f}' if variant in in_paper else '–' for variant in variants
    ]
  return table
