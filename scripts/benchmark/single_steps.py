"""The benchmarks of single steps: `cifar`, `vae`, `draw` and `scaling`."""

import argparse
import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from configs.cifar import VARIANTS
from configs.variants import PARAMETERIZATIONS
from experiments.runtime.errors import UserError
from scripts.benchmark import cifar_step, steps
from scripts.benchmark.worker import Row

_FASTEST = {'cpu': 'winograd', 'gpu': 'direct'}  # our convolution
SIZES = {'batch': (25, 50, 100, 200), 'width': (16, 32, 64, 96), 'depth': (1, 2, 3, 5)}


def cifar(args: argparse.Namespace) -> None:
  """Measures a step of every parameterization and framework.

  Raises:
    UserError: all rows failed.
  """
  title = f'CIFAR-10 network, width {args.width}, batch {args.batch}'
  rows = _cifar_rows(args.width, args.batch, args.device)
  _compare(args, rows, title, with_rates=args.device == 'cpu')


def vae(args: argparse.Namespace) -> None:
  """Measures a step of the convolutional VAE with IAF, at the paper's size, and of a port."""
  _compare(args, _generative_rows(args), f'MNIST VAE with IAF, batch {args.batch}')


def draw(args: argparse.Namespace) -> None:
  """Measures a step of DRAW, at the paper's size, and of a port."""
  _compare(args, _generative_rows(args), f'DRAW, batch {args.batch}')


def _compare(
  args: argparse.Namespace, rows: Sequence[Row], title: str, *, with_rates: bool = False
) -> None:
  rows = [row for row in rows if args.dtype in (None, row.dtype)]
  rows = [row for row in rows if args.framework in (None, row.framework)]
  if not rows:
    raise UserError(f'{args.benchmark} has no row with this --framework and --dtype.')
  peak = steps.matmul_gflops() if with_rates else None
  rows, missing = steps.possible(rows, lambda row: row.framework == 'torch')
  results, failures = steps.measure(rows, args.rounds)
  for message in missing + failures:
    print(f'left out: {message}', file=sys.stderr)
  if not results:
    raise UserError('no row could be measured; see above.')
  ends = f'; peak: a float32 matrix product, {peak:.0f} GFLOP/s' if peak else ''
  print(f'\n{title}{ends}\n')
  print(steps.table(results, peak))
  if args.json:
    content = {
      'machine': steps.machine(),
      'matmul_gflops': peak,
      'rows': results,
      'left_out': missing + failures,
    }
    steps.write(args.json, content, steps.picture(results, title))


def _cifar_rows(width: int, batch: int, device: str) -> list[Row]:
  fast = _FASTEST[device]
  rows = [('jax', variant, 'float32', fast) for variant in VARIANTS]
  rows += [('jax', 'plain', 'float32', 'direct')]
  rows += [('jax', variant, 'bfloat16', fast) for variant in ('plain', 'wn')]
  rows += [('flax.linen', 'wn', 'float32', 'direct')]
  rows += [('torch', variant, 'float32', 'eager') for variant in ('plain', 'wn', 'bn')]
  rows += [('torch', 'plain', 'bfloat16', 'eager')]
  rows += [('torch', 'plain', dtype, 'compile') for dtype in ('float32', 'bfloat16')]
  return [Row(*row, 'cifar', width, batch) for row in dict.fromkeys(rows)]


def _generative_rows(args: argparse.Namespace) -> list[Row]:
  """Rows of `vae` and `draw`: the paper's float32, on a GPU bfloat16 as well."""
  dtypes = ('float32',) if args.device == 'cpu' else ('float32', 'bfloat16')
  rows = [('jax', variant, dtype, 'direct') for dtype in dtypes for variant in PARAMETERIZATIONS]
  rows += [('torch', 'plain', dtype, mode) for dtype in dtypes for mode in ('eager', 'compile')]
  return [Row(*row, args.benchmark, width=None, batch=args.batch, depth=None) for row in rows]


def scaling(args: argparse.Namespace) -> None:
  """Measures our `wn` step against batch size, width and depth, one at a time."""
  dtype = args.dtype or 'float32'
  base = {'batch': args.batch, 'width': args.width, 'depth': 3}
  sizes = [base | {along: n} for along, values in SIZES.items() for n in values]
  rows = [Row('jax', 'wn', dtype, _FASTEST[args.device], **size) for size in [base, *sizes]]
  results, failures = steps.measure(list(dict.fromkeys(rows)), args.rounds)
  for message in failures:
    print(f'left out: {message}', file=sys.stderr)
  print(
    '\n| batch | width | depth | s | min–max | GFLOP/s |\n| --- | --- | --- | --- | --- | --- |'
  )
  for result in results:
    size = [result[along] for along in base]
    seconds, rounds = result['seconds'], result['rounds']
    rate = cifar_step.gflop(result['width'], result['batch'], result['depth']) / seconds
    cells = [*size, f'{seconds:.3f}', f'{min(rounds):.3f}–{max(rounds):.3f}', f'{rate:.0f}']
    print('| ' + ' | '.join(map(str, cells)) + ' |')
  if args.json:
    content = {'machine': steps.machine(), 'rows': results, 'left_out': failures}
    steps.write(args.json, content, _curves(results, base))


def _curves(results: list[steps.Results], base: dict[str, int]) -> Figure:
  """Seconds against each size, with the others as in `base`."""
  figure = Figure(figsize=(11, 3.5), layout='constrained')
  for axes, along in zip(figure.subplots(1, len(base)), base):
    fixed = {key: value for key, value in base.items() if key != along}
    chosen = [r for r in results if all(r[key] == value for key, value in fixed.items())]
    chosen.sort(key=lambda r: r[along])
    seconds = [r['seconds'] for r in chosen]
    spread = [
      [r['seconds'] - min(r['rounds']) for r in chosen],
      [max(r['rounds']) - r['seconds'] for r in chosen],
    ]
    axes.errorbar([r[along] for r in chosen], seconds, spread, marker='.', capsize=2)
    axes.set(xlabel=along, ylabel='seconds for a step of wn', xlim=(0, None), ylim=(0, None))
    axes.set_title(', '.join(f'{key} {value}' for key, value in fixed.items()))
    axes.grid(alpha=0.3)
  return figure
