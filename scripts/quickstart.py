"""Compares weight normalization with the plain parameterization on digits, in minutes.

Trains a narrow version of the paper's CIFAR-10 network on scikit-learn's 8×8 digits, in three
parameterizations with the same seeds. Prints the test errors and draws the learning curves.

  python -m scripts.quickstart [--seeds 3] [--out runs/quickstart]
"""

import contextlib
import io
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import tqdm
from ml_collections import config_dict

from configs import cifar
from experiments import results
from experiments.runtime import environment, interrupts, metrics
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors
from scripts.report import evaluations, output, sections
from scripts.report.cifar import TEST
from scripts.report.seeds import over_seeds

VARIANTS = ('plain', 'wn', 'wn_mean_bn')
RUNS_PER_MINUTE = 3  # on two CPU cores


def main() -> None:
  """Runs the command."""
  parser = ArgumentParser(__doc__, 'scripts/quickstart')
  parser.add_argument('--seeds', type=int, default=3, help='runs per parameterization')
  parser.add_argument('--out', type=Path, default=Path('runs/quickstart'))
  parser.add_argument('--protocol', choices=('digits', 'tiny'), default='digits')
  with one_line_errors():
    interrupts.install()
    args = parser.parse_args()
    environment.prepare()
    quickstart(args.out, args.seeds, args.protocol)


def quickstart(out: Path, seeds: int, protocol: str) -> None:
  """Trains the networks that aren't trained yet, prints the table and writes the report.

  Raises:
    UserError: `seeds` is not positive, or `out` can't be used.
  """
  if seeds < 1:
    raise UserError(f'--seeds {seeds}: give 1 or more.')
  # These import JAX, so the environment must be ready.
  from experiments.cifar.train import train
  from experiments.runtime import workdir as workdir_lib

  configs = {}
  for seed in range(seeds):
    for variant in VARIANTS:
      config = cifar.get_config(f'{variant},{protocol}')
      config.seed = seed
      configs[out / variant / f'seed{seed}'] = config_dict.FrozenConfigDict(config)
  for workdir, config in configs.items():  # check all of them before training
    workdir_lib.check_workdir(workdir, config)
  each = f'{seeds} seed{"s" if seeds > 1 else ""}'
  print(f"""
Trains the paper's CIFAR-10 network, made narrow, on the handwritten digits that come with
scikit-learn: {', '.join(VARIANTS)}, {each} of each. On two CPU cores this takes
about {math.ceil(len(configs) / RUNS_PER_MINUTE)} min. Ctrl-C stops it, the same command resumes it.
""")
  train_all(configs, train)
  made, _ = sections.make([results.read(workdir) for workdir in configs])
  output.write(made, out)
  what = f'mean of {each} ± 95 % interval' if seeds > 2 else each
  print(f'\nTest error in % on 500 digits, {what}:\n')
  print(error_table(evaluations.evaluations(made[0].runs, TEST)))
  print(f"""
Learning curves:  {out}/figure1.png
Report:           {out}/index.html
Runs:             {out}/VARIANT/seedK/ (metrics.jsonl, summary.json, checkpoints, pictures)

Next:
  source .venv/bin/activate
  pip install -e '.[notebook]' && jupyter lab notebooks         # the layers, in a model of your own
  python -m experiments.download cifar10                        # the paper's data, and
  python -m experiments.cifar --config configs/cifar.py:wn,scaled  # its network, made narrow
  scripts/test                                                  # lint and all tests""")


def train_all(
  configs: Mapping[Path, config_dict.FrozenConfigDict], train: Callable[..., Any]
) -> None:
  """Trains all runs under one bar, and prints a line for each."""
  total = sum(config.epochs for config in configs.values())
  hidden = not sys.stderr.isatty()
  with tqdm.tqdm(total=total, unit='epoch', dynamic_ncols=True, disable=hidden) as bar:
    for number, (workdir, config) in enumerate(configs.items(), start=1):
      bar.set_description(f'run {number} of {len(configs)}')
      end = bar.n + config.epochs
      with metrics.in_silence(bar.update), contextlib.redirect_stdout(io.StringIO()):
        train(config, workdir)
      bar.update(end - bar.n)  # epochs that were trained before
      error = results.read(workdir).summary['final'][TEST.metric]
      bar.write(f'{workdir.parts[-2]:<10} {workdir.name}  test error {TEST.scale * error:5.2f} %')


def error_table(errors: pd.DataFrame) -> str:
  """Test error by epoch, with one column per parameterization."""
  epochs = errors['epoch'].max()
  shown = sorted({1, 2, 3, 4, 5, 7, 10, epochs} & set(errors['epoch']))
  cells = errors[errors['epoch'].isin(shown)].groupby(['epoch', 'variant'], sort=False)['value']
  table = cells.apply(over_seeds).unstack()[list(errors['variant'].unique())]
  lines = ['epoch' + ''.join(f'{variant:>16}' for variant in table)]
  lines += [
    f'{epoch:>5}' + ''.join(f'{cell:>16}' for cell in row) for epoch, *row in table.itertuples()
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
