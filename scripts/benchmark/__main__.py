"""Measures the training step and what surrounds it.

  python -m scripts.benchmark cifar     one step: our five parameterisations, flax.linen, PyTorch
  python -m scripts.benchmark scaling   one step against batch size, width and depth
  python -m scripts.benchmark epoch     a whole epoch over the sum of its steps
  python -m scripts.benchmark startup   command to first step, with a cold and a warm cache
  python -m scripts.benchmark dqn       agent steps of deep Q-learning, against a plain loop

What is compared is measured in turns within one call, and reported as medians with the fastest and
the slowest round. `pip install .[bench]` adds PyTorch; without it the other rows are measured.
`--framework jax --dtype float32` measures only such rows of `cifar`.
"""

from pathlib import Path

from experiments.runtime import environment
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors

BENCHMARKS = ('cifar', 'scaling', 'epoch', 'startup', 'dqn')
DTYPES = ('float32', 'bfloat16')
FRAMEWORKS = ('jax', 'flax.linen', 'torch')


def main() -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m scripts.benchmark')
  parser.add_argument('benchmark', choices=BENCHMARKS)
  parser.add_argument('--width', type=int, default=96, help='maps of the first block')
  parser.add_argument('--batch', type=int, default=100, help='images in a minibatch')
  parser.add_argument('--dtype', choices=DTYPES, help='of the hidden units (cifar: both)')
  parser.add_argument('--framework', choices=FRAMEWORKS, help='only its rows (cifar: all)')
  parser.add_argument('--rounds', type=int, default=7, help='times that each row is measured')
  parser.add_argument('--json', type=Path, help='file for the results, with a picture beside it')
  parser.add_argument('--data_dir', help='folder of CIFAR-10 (epoch, startup)')
  with one_line_errors():
    args = parser.parse_args()
    for name in ('width', 'batch', 'rounds'):
      if getattr(args, name) < 1:
        raise UserError(f'--{name} {getattr(args, name)}: give 1 or more.')
    if args.json and args.json.suffix != '.json':
      raise UserError(f'--json {args.json}: give a name that ends in .json.')
    if args.json:  # now, as it is written when all is measured
      args.json.parent.mkdir(parents=True, exist_ok=True)
    environment.prepare(ynn_products=args.benchmark == 'dqn')
    if args.benchmark in ('cifar', 'scaling'):
      from scripts.benchmark import single_steps as benchmark
    elif args.benchmark == 'dqn':
      from scripts.benchmark import dqn as benchmark
    else:
      from scripts.benchmark import whole_runs as benchmark
    getattr(benchmark, args.benchmark)(args)


if __name__ == '__main__':
  main()
