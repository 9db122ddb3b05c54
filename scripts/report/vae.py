"""Figure 2 of the paper from runs of the variational autoencoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results import Run
from scripts.report import curves, diagnostics
from scripts.report.parts import Picture, Section, Table

METRIC = 'test/nll_bound'
KEYS = frozenset({'dataset', 'epochs', 'ema_decay', 'learning_rate'})  # of a config


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
  rows = curves.evaluations(runs, METRIC)
  config = runs[0].config
  best = curves.best_rates(rows)
  best_runs = [run for run in runs if run.config['learning_rate'] == best[run.config['variant']]]
  chosen = rows[rows['learning_rate'] == rows['variant'].map(best)]
  size, authors = _size(config)
  images = 'pixels' if config['dataset'] == 'cifar10' else 'images binarised once'
  caption = (
    f'Bound on −log p(x) in nats on {config["dataset"]}, test {images}: {size} '
    f'(authors: {authors}), {config["epochs"]} epochs, parameters averaged with decay '
    f'{config["ema_decay"]:g}.'
  )
  tried = rows['learning_rate'].nunique()
  table = curves.table(chosen, (1, 2, 5, 10), with_rates=tried > 1)
  tables = [Table('table', table, ' '.join(filter(None, [caption, note])))]
  if tried > 1:
    rates = 'The bound after the last epoch, by learning rate; the best of each in bold.'
    tables.append(Table('learning_rates', curves.rate_table(rows), rates))
  early = chosen.loc[chosen['epoch'] == min(2, config['epochs']), 'value'].max()
  figure = curves.draw(
    chosen,
    f'{config["dataset"]}, {size}',
    ylabel='bound on −log p(x) (nats)',
    ylim=(None, early),  # the first epoch is far above
  )
  about_time = 'Time is what the runs took, with whatever else the machine did.'
  pictures = [Picture('bound', figure, about_time), *diagnostics.pictures(best_runs)]
  return Section(name, title, runs, tables, pictures, {'bound': curves.by_run(chosen)}), problems


def _size(config: dict[str, Any]) -> tuple[str, str]:
  """What a network's size is, and that of the authors' network."""
  numbers = lambda values: ', '.join(map(str, values))
  if 'depths' in config:
    depths = numbers(config['depths'])
    text = f'{config["h"]} maps, {config["z"]} latent maps in each of {depths} layers'
    return text, '160, 32, and 10, 10'
  return f'{numbers(config["maps"])} maps', '16, 32, 32'
