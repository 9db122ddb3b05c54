"""Compares weight normalization with the plain parameterization on digits, in minutes.

Trains a narrow version of the paper's CIFAR-10 network on scikit-learn's 8×8 digits, in three
parameterizations with the same seeds. Prints the test errors and draws the learning curves.

  python -m scripts.quickstart [--seeds 3] [--out runs/quickstart]
"""

from pathlib import Path

import pandas as pd
from ml_collections import config_dict

from configs import cifar
from experiments import results
from experiments.runtime import environment, interrupts
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors
from scripts.report import evaluations, output, sections, tables
from scripts.report.cifar import TEST

VARIANTS = ('plain', 'wn', 'wn_mean_bn')


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
  for workdir, config in configs.items():
    train(config, workdir)
  made, _ = sections.make([results.read(workdir) for workdir in configs])
  output.write(made, out)
  print(f'\nTest error in % on 500 digits, mean of {seeds} seeds ± standard error:\n')
  print(error_table(evaluations.evaluations(made[0].runs, TEST)))
  print(f"""
Report:           {out}/index.html
Learning curves:  {out}/figure1.png
Runs:             {out}/VARIANT/seedK/ (metrics.jsonl, summary.json, checkpoints, pictures)
TensorBoard:      pip install tensorboard && tensorboard --logdir {out}

Next:
  scripts/test                                     # the tests
  source .venv/bin/activate                        # for what follows
  python -m experiments.download cifar10  # the paper's data
  python -m experiments.cifar --config configs/cifar.py:wn,scaled  # 15-45 minutes on 2 cores
  python -m experiments.cifar --config configs/cifar.py:wn         # the paper's protocol""")


def error_table(errors: pd.DataFrame) -> str:
  """Test error by epoch, with one column per parameterization."""
  epochs = errors['epoch'].max()
  shown = sorted({1, 2, 3, 4, 5, 7, 10, epochs} & set(errors['epoch']))
  cells = errors[errors['epoch'].isin(shown)].groupby(['epoch', 'variant'], sort=False)['value']
  table = cells.apply(tables.mean_and_error).unstack()[list(errors['variant'].unique())]
  lines = ['epoch' + ''.join(f'{variant:>16}' for variant in table)]
  lines += [
    f'{epoch:>5}' + ''.join(f'{cell:>16}' for cell in row) for epoch, *row in table.itertuples()
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
