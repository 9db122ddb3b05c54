"""Table 1 and Figure 1 of the paper from runs of the CIFAR-10 experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results import Run
from scripts.report import curves, diagnostics, step_times
from scripts.report.parts import Picture, Section, Table

METRIC = 'test/error'
KEYS = frozenset({'dataset', 'width', 'epochs', 'batch_size', 'learning_rate'})  # of a config
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
  runs, problems = curves.whole(runs, METRIC, list(PAPER))
  if not runs:
    return None, problems
  step_seconds = step_times.read(steps, runs) if steps else None
  errors = curves.evaluations(runs, METRIC, scale=100, step_seconds=step_seconds)
  config = runs[0].config
  best = curves.best_rates(errors)
  best_runs = [run for run in runs if run.config['learning_rate'] == best[run.config['variant']]]
  chosen = errors[errors['learning_rate'] == errors['variant'].map(best)]
  tried = errors['learning_rate'].nunique()
  table = curves.table(chosen, (1, 2, 3, 5), with_rates=tried > 1)
  if config['dataset'] == 'cifar10':
    paper = [f'{PAPER[variant]:.2f}' for variant in chosen['variant'].unique()]
    table = table.assign(**{'paper, 200 epochs': paper})
  about_time = (
    'Time is the number of steps times the median time of a step.'
    if steps
    else curves.about_time(runs)
  )
  figure = curves.draw(
    chosen, f'{config["dataset"]}, width {config["width"]}', ylabel='test error (%)'
  )
  caption = ' '.join(filter(None, [_scale(config, tried), note]))
  tables = [Table('table', table, caption)]
  if tried > 1:
    rates = 'Test error in % after the last epoch, by learning rate; the best of each in bold.'
    tables.append(Table('learning_rates', curves.rate_table(errors), rates))
  pictures = [Picture('learning_curves', figure, about_time), *diagnostics.pictures(best_runs)]
  data = {'test_error': curves.by_run(chosen)}
  return Section(name, title, runs, tables, pictures, data), problems


def _scale(config: dict[str, Any], tried: int) -> str:
  text = (
    f'Test error in % on {config["dataset"]}: width {config["width"]} (paper: 96), '
    f'{config["epochs"]} epochs (paper: 200), '
  )
  if tried > 1:
    return f'{text}the best of {tried} learning rates for each by the error after the last epoch.'
  return f'{text}learning rate {config["learning_rate"]:g}.'
