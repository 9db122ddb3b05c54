"""Tables and figures from finished runs of the CIFAR-10 experiment.

  python -m scripts.report runs/cifar/*-scaled/seed* --out results/cifar-scaled [--readme README.md]
    [--steps results/benchmark/step-width32.json]

Reads `metrics.jsonl` and `summary.json` only. Writes into --out a copy of both files of each run,
`table.md`, `test_error.csv` and `learning_curves.png`; with --readme also the part of that file
between the lines `<!-- results -->` and `<!-- /results -->`. With --steps, a file of `python -m
scripts.benchmark cifar --json`, the figure shows the error against time as well.
"""

import argparse
import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.training.errors import UserError, one_line_errors
from experiments.training.metrics import read_rows

# Test error in %, Table 1 of the paper: 200 epochs at width 96 on the original images.
PAPER = {'plain': 8.43, 'wn': 8.46, 'bn': 8.05, 'mean_bn': 8.52, 'wn_mean_bn': 7.31}


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    path: its directory.
    summary: its `summary.json`.
    test_error: [epochs] test error in % after each epoch.
  """

  path: Path
  summary: dict[str, Any]
  test_error: np.ndarray

  @property
  def variant(self) -> str:
    """'wn' and so on."""
    return self.summary['config']['variant']


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('runs', nargs='+', type=Path, help='directories of finished runs')
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--readme', type=Path, help='file whose results block is replaced')
  parser.add_argument('--steps', type=Path, help='step times, for the error against time')
  parser.add_argument('--note', default='', help='sentence for the caption of the table')
  args = parser.parse_args()
  with one_line_errors():
    runs = load(args.runs)
    record(runs, args.out)
    page = args.readme.parent if args.readme else Path()
    step_seconds = read_step_seconds(args.steps, runs) if args.steps else None
    block = write(runs, args.out, args.note, page, step_seconds)
    if args.readme:
      replace_block(args.readme, block)
    print(block)


def load(paths: Sequence[Path]) -> list[Run]:
  """Reads finished runs, in the order of the paper's table and then of the seeds.

  Raises:
    UserError: a directory holds no whole finished run, a run is given twice, or the runs differ in
      more than variant and seed.
  """
  runs = []
  for path in paths:
    try:
      summary = json.loads((path / 'summary.json').read_text())
      epochs = summary['config']['epochs']
    except FileNotFoundError as error:
      raise UserError(f'{path} holds no finished run (there is no summary.json).') from error
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f'{path}/summary.json is damaged ({error}).') from error
    rows = [row for row in read_rows(path / 'metrics.jsonl') if 'test/error' in row]
    if [row['epoch'] for row in rows] != list(range(1, epochs + 1)):
      raise UserError(
        f'{path}/metrics.jsonl lacks evaluations: there should be {epochs}, in order.'
      )
    runs.append(Run(path, summary, np.array([100 * row['test/error'] for row in rows])))
  for key in runs[0].summary['config'].keys() - {'variant', 'seed'}:
    values = {json.dumps(run.summary['config'][key]) for run in runs}
    if len(values) > 1:
      raise UserError(f'the runs differ in config.{key}: {", ".join(sorted(values))}.')
  names = [(run.variant, run.summary['seed']) for run in runs]
  for variant, seed in set(names):
    if names.count((variant, seed)) > 1:
      raise UserError(f'{variant} with seed {seed} is given more than once.')
  return sorted(runs, key=lambda run: (list(PAPER).index(run.variant), run.summary['seed']))


def record(runs: Sequence[Run], out: Path) -> None:
  """Copies the raw metrics and the summary of each run."""
  for run in runs:
    folder = out / run.variant / f'seed{run.summary["seed"]}'
    folder.mkdir(parents=True, exist_ok=True)
    for name in ('metrics.jsonl', 'summary.json'):
      if (run.path / name).resolve() != (folder / name).resolve():
        shutil.copyfile(run.path / name, folder / name)


def read_step_seconds(path: Path, runs: Sequence[Run]) -> dict[str, float]:
  """Variant → median seconds of a training step, from the results of a benchmark.

  Time is not taken from the runs: they shared the machine with other work, unevenly.

  Raises:
    UserError: the file is no such result, or was measured at another size than the runs have.
  """
  try:
    rows = [row for row in json.loads(path.read_text())['rows'] if row['framework'] == 'jax']
    seconds = {}
    for variant in group(runs):
      config = next(run.summary['config'] for run in runs if run.variant == variant)
      size = (variant, 'float32', 'winograd', config['width'], config['batch_size'])
      matching = (
        row['seconds']
        for row in rows
        if tuple(row[key] for key in ('variant', 'dtype', 'mode', 'width', 'batch')) == size
      )
      seconds[variant] = next(matching)
  except FileNotFoundError as error:
    raise UserError(f'there is no file {path}; python -m scripts.benchmark writes it.') from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} does not hold the results of a benchmark of steps.') from error
  except StopIteration as error:
    raise UserError(f'{path} has no step time for {", ".join(map(str, size))}.') from error
  return seconds


def write(
  runs: Sequence[Run],
  out: Path,
  note: str = '',
  page: Path = Path(),
  step_seconds: dict[str, float] | None = None,
) -> str:
  """Writes table and figure; returns them as Markdown for a file in the folder `page`."""
  out.mkdir(parents=True, exist_ok=True)
  about_time = (
    'Time is the number of steps times the median time of a step.' if step_seconds else ''
  )
  caption = ' '.join(filter(None, [_scale(runs[0].summary['config']), note, about_time]))
  (out / 'table.md').write_text(f'{final_table(runs)}\n\n{caption}\n')
  with (out / 'test_error.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['epoch', *(f'{run.variant}/seed{run.summary["seed"]}' for run in runs)])
    for epoch, errors in enumerate(zip(*(run.test_error for run in runs), strict=True), start=1):
      writer.writerow([epoch, *(f'{error:.2f}' for error in errors)])
  figure = out / 'learning_curves.png'
  learning_curves(runs, step_seconds).savefig(figure, dpi=150)
  picture = f'![Test error against epoch]({os.path.relpath(figure, page)})'
  return f'{final_table(runs)}\n\n{caption}\n\n{picture}'


def group(runs: Sequence[Run]) -> dict[str, np.ndarray]:
  """Variant → [seeds, epochs] test error in %."""
  groups: dict[str, list[np.ndarray]] = {}
  for run in runs:
    groups.setdefault(run.variant, []).append(run.test_error)
  return {variant: np.array(errors) for variant, errors in groups.items()}


def final_table(runs: Sequence[Run]) -> str:
  """Markdown: test error after the first epochs and the last; for CIFAR-10 also the paper's."""
  groups = group(runs)
  epochs = next(iter(groups.values())).shape[1]
  shown = sorted({1, 2, 3, 5, epochs} & set(range(1, epochs + 1)))
  paper = {'paper, 200 epochs': PAPER} if runs[0].summary['config']['dataset'] == 'cifar10' else {}
  header = ['parameterisation', 'seeds', *(f'epoch {epoch}' for epoch in shown), *paper]
  lines = [_row(header), _row(['---'] * len(header))]
  for variant, errors in groups.items():
    cells = [mean_and_error(errors[:, epoch - 1]) for epoch in shown]
    cells += [f'{values[variant]:.2f}' for values in paper.values()]
    lines.append(_row([f'`{variant}`', str(len(errors)), *cells]))
  return '\n'.join(lines)


def mean_and_error(values: np.ndarray) -> str:
  """'12.3 ± 0.4': the mean over seeds and its standard error; without the error for one seed."""
  error = f' ± {standard_error(values):.2f}' if len(values) > 1 else ''
  return f'{values.mean():.2f}{error}'


def standard_error(values: np.ndarray) -> np.ndarray:
  """Of the mean over the first axis; 0 for a single value."""
  seeds = len(values)
  return values.std(axis=0, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(values.shape[1:])


def learning_curves(runs: Sequence[Run], step_seconds: dict[str, float] | None = None) -> Figure:
  """Test error against epoch: the mean over seeds, with a band of one standard error.

  Args:
    runs: finished runs.
    step_seconds: variant → seconds of a step, for a second picture: the error against time.
  """
  columns = 2 if step_seconds else 1
  figure = Figure(figsize=(6 * columns, 4), layout='constrained')
  by_epoch, *by_time = figure.subplots(1, columns, squeeze=False)[0]
  for variant, errors in group(runs).items():
    epochs = np.arange(1, errors.shape[1] + 1)
    _draw(by_epoch, epochs, errors, variant)
    for axes in by_time:
      steps = next(run.summary['final']['step'] for run in runs if run.variant == variant)
      minutes_per_epoch = steps / len(epochs) * step_seconds[variant] / 60
      _draw(axes, minutes_per_epoch * epochs, errors, variant)
  config = runs[0].summary['config']
  by_epoch.set(xlabel='epoch', title=f'{config["dataset"]}, width {config["width"]}')
  for axes in by_time:
    axes.set(xlabel='minutes of training steps', title='the same against time')
  for axes in (by_epoch, *by_time):
    axes.set(ylabel='test error (%)', ylim=(0, None))
    axes.grid(alpha=0.3)
  by_epoch.legend()
  return figure


def _draw(axes: Any, x: np.ndarray, errors: np.ndarray, label: str) -> None:
  """One curve with its band; errors: [seeds, epochs]."""
  mean, error = errors.mean(axis=0), standard_error(errors)
  (line,) = axes.plot(x, mean, marker='.', label=label)
  axes.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.2, lw=0)


def replace_block(path: Path, block: str) -> None:
  """Puts `block` between the markers of a Markdown file.

  Raises:
    UserError: the file has no such markers.
  """
  begin, end = '<!-- results -->', '<!-- /results -->'
  text = path.read_text()
  if begin not in text or end not in text.split(begin, 1)[1]:
    raise UserError(f'{path} has no lines {begin} and {end}.')
  before, rest = text.split(begin, 1)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(f'{before}{begin}\n\n{block}\n\n{end}{rest.split(end, 1)[1]}')
  os.replace(temporary, path)


def _scale(config: dict[str, Any]) -> str:
  return (
    f'Test error in % on {config["dataset"]}: width {config["width"]} (paper: 96), '
    f'{config["epochs"]} epochs (paper: 200), learning rate {config["learning_rate"]:g}.'
  )


def _row(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


if __name__ == '__main__':
  main()
