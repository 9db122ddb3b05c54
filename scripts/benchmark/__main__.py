"""Measures training steps and whole runs.

  python -m scripts.benchmark cifar     one step: our five parameterizations, flax.linen, PyTorch
  python -m scripts.benchmark vae       one step of the MNIST VAE: ours, PyTorch
  python -m scripts.benchmark draw      one step of DRAW: ours, PyTorch
  python -m scripts.benchmark scaling   one step against batch size, width and depth
  python -m scripts.benchmark epoch     a whole epoch over the sum of its steps
  python -m scripts.benchmark startup   command to first step of each experiment, cold and warm
  python -m scripts.benchmark dqn       agent steps and updates: ours, simple loops, PyTorch

Rows are measured in turns, and reported as medians with the fastest and slowest round, after two
lines on the processor, the versions and the settings.
`pip install -e '.[bench]'` adds PyTorch; without it, its rows are left out. `--framework jax
--dtype float32` measures only those rows of single steps. `--device gpu` measures on one GPU, where
float32 products are TF32 in both frameworks, except for the attention of our DRAW; in bfloat16,
PyTorch's autocast also rounds what ours keeps in float32: posteriors, logits, attention.
"""

from pathlib import Path

from experiments.runtime import environment
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors
from scripts.benchmark import stepper

# Benchmark → what can be chosen for it, beside --device, --rounds and --json.
CHOICES = {
  'cifar': {'width', 'batch', 'dtype', 'framework'},
  'vae': {'batch', 'dtype', 'framework'},
  'draw': {'batch', 'dtype', 'framework'},
  'scaling': {'width', 'batch', 'dtype'},
  'epoch': {'width', 'batch', 'dtype', 'data_dir'},
  'startup': {'data_dir'},
  'dqn': set(),
}
DEFAULTS = {'width': 96, 'batch': 100, 'dtype': None, 'framework': None, 'data_dir': None}
DTYPES = ('float32', 'bfloat16')
FRAMEWORKS = ('jax', 'flax.linen', 'torch')


def main() -> None:
  """Runs the command."""
  parser = ArgumentParser(__doc__, 'python -m scripts.benchmark')
  parser.add_argument('benchmark', choices=CHOICES)
  parser.add_argument('--width', type=int, help='feature maps of the first block (default: 96)')
  parser.add_argument('--batch', type=int, help='minibatch size (default: 100)')
  parser.add_argument('--dtype', choices=DTYPES, help='of the hidden units (default: all)')
  parser.add_argument('--framework', choices=FRAMEWORKS, help='measure only its single steps')
  parser.add_argument('--device', choices=stepper.PLATFORMS, default='cpu', help='for all rows')
  parser.add_argument('--rounds', type=int, default=7, help='measurements per row')
  parser.add_argument('--json', type=Path, help='file for the results; the picture goes beside it')
  parser.add_argument('--data_dir', help='folder of the data sets (epoch, startup)')
  with one_line_errors():
    args = parser.parse_args()
    for name, default in DEFAULTS.items():
      value = getattr(args, name)
      if value is None:
        setattr(args, name, default)
      elif name not in CHOICES[args.benchmark]:
        raise UserError(f'--{name} {value}: {args.benchmark} has no such choice.')
    for name in ('width', 'batch', 'rounds'):
      if getattr(args, name) < 1:
        raise UserError(f'--{name} {getattr(args, name)}: give 1 or more.')
    if args.json and args.json.suffix != '.json':
      raise UserError(f'--json {args.json}: give a name that ends in .json.')
    if args.json:  # fail now rather than after measuring
      args.json.parent.mkdir(parents=True, exist_ok=True)
    stepper.use(args.device)
    environment.prepare(ynn_products=args.benchmark in ('draw', 'dqn'))
    from scripts.benchmark import steps  # after the environment is set

    print(steps.describe(steps.machine()), flush=True)
    if args.benchmark in ('cifar', 'vae', 'draw', 'scaling'):
      from scripts.benchmark import single_steps as benchmark
    elif args.benchmark == 'dqn':
      from scripts.benchmark import dqn as benchmark
    else:
      from scripts.benchmark import whole_runs as benchmark
    getattr(benchmark, args.benchmark)(args)


if __name__ == '__main__':
  main()
