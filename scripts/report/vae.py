"""Figure 2 of the paper from runs of the variational autoencoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results import Run
from scripts.report import curves, diagnostics
from scripts.report.parts import Picture, Section, Table

METRIC = 'test/nll_bound'
KEYS = frozenset({'dataset', 'epochs', 'ema_decay', 'learning_rate'})  # of a config
_PICTURES = {
  'samples.png': 'samples from the prior',
  'reconstructions.png': 'test images, and below them their reconstructions',
  'traversals.png': 'a test image with one latent at a time going from −3 to 3, a row for each',
}


def section(
  runs: Sequence[Run], name: str, title: str, steps: Path | None = None, note: str = ''
) -> tuple[Section | None, list[str]]:
  """The section of runs on one data set that differ only in posterior, parameterisation and seed.

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
  config = runs[0].config
  is_binary = config['dataset'] != 'cifar10'
  unit = 'nats' if is_binary else 'bits per dimension'
  rows = curves.evaluations(runs, METRIC if is_binary else 'test/bits_per_dim')
  size, authors = _size(config)
  best = curves.best_rates(rows)
  best_runs = [run for run in runs if run.config['learning_rate'] == best[run.config['variant']]]
  chosen = rows[rows['learning_rate'] == rows['variant'].map(best)]
  images = 'images binarised once' if is_binary else 'pixels'
  caption = (
    f'Bound on −log p(x) in {unit} on {config["dataset"]}, test {images}: {size} '
    f'(authors: {authors}), {config["epochs"]} epochs, parameters averaged with decay '
    f'{config["ema_decay"]:g}.'
  )
  tried = rows['learning_rate'].nunique()
  table = curves.table(chosen, (1, 2, 5, 10), with_rates=tried > 1)
  nll = lambda result, _: -result['log_likelihood'] if is_binary else result['bits_per_dim']
  if likelihoods := curves.afterwards(best_runs, 'likelihood', nll):
    samples, cells = likelihoods
    table[f'−log p(x), {samples} samples'] = list(cells.values())
  tables = [Table('table', table, ' '.join(filter(None, [caption, note])))]
  if tried > 1:
    rates = 'The bound after the last epoch, by learning rate; the best of each in bold.'
    tables.append(Table('learning_rates', curves.rate_table(rows), rates))
  early = chosen.loc[chosen['epoch'] == (2 if config['epochs'] > 5 else 1), 'value'].max()
  figure = curves.draw(
    chosen,
    f'{config["dataset"]}, {size}',
    ylabel=f'bound on −log p(x) ({unit})',
    ylim=(None, early),  # in a long run the first epoch is far above
  )
  pictures = [
    Picture('bound', figure, curves.about_time(runs)),
    *curves.pictures_of_runs(best_runs, _PICTURES),
    *diagnostics.pictures(best_runs),
  ]
  return Section(name, title, runs, tables, pictures, {'bound': curves.by_run(chosen)}), problems


def _size(config: dict[str, Any]) -> tuple[str, str]:
  """What a network's size is, and that of the authors' network."""
  numbers = lambda values: ', '.join(map(str, values))
  if 'depths' in config:
    depths = numbers(config['depths'])
    text = f'{config["h"]} maps, {config["z"]} latent maps in each of {depths} layers'
    return text, '160, 32, and 10, 10'
  return f'{numbers(config["maps"])} maps', '16, 32, 32'
