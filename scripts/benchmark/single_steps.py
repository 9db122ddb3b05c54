"""The benchmarks of single steps: `cifar` and `scaling`."""

import argparse
import importlib.util
import sys

from matplotlib.figure import Figure

from configs.cifar import VARIANTS
from experiments.runtime.errors import UserError
from scripts.benchmark import network, steps
from scripts.benchmark.worker import Row

SIZES = {'batch': (25, 50, 100, 200), 'width': (16, 32, 64, 96), 'depth': (1, 2, 3, 5)}


def cifar(args: argparse.Namespace) -> None:
  """Measures a step of every parameterization and framework.

  Raises:
    UserError: all rows failed.
  """
  rows = [row for row in _rows(args.width, args.batch) if args.dtype in (None, row.dtype)]
  rows = [row for row in rows if args.framework in (None, row.framework)]
  failures = []
  other = [row for row in rows if row.framework != 'torch']
  if len(other) < len(rows) and importlib.util.find_spec('torch') is None:
    rows = other
    failures.append("PyTorch is not installed; `pip install -e '.[bench]'` adds its rows.")
  peak = steps.matmul_gflops()
  results, failed = steps.measure(rows, args.rounds)
  for message in failures + failed:
    print(f'left out: {message}', file=sys.stderr)
  if not results:
    raise UserError('no row could be measured; see above.')
  title = f'CIFAR-10 network, width {args.width}, batch {args.batch}'
  print(f'\n{title}; peak: a float32 matrix product, {peak:.0f} GFLOP/s\n')
  print(steps.table(results, peak))
  if args.json:
    content = {
      'machine': steps.machine(),
      'matmul_gflops': peak,
      'rows': results,
      'left_out': failures + failed,
    }
    steps.write(args.json, content, steps.picture(results, title))


def _rows(width: int, batch: int) -> list[Row]:
  rows = [('jax', variant, 'float32', 'winograd') for variant in VARIANTS]
  rows += [('jax', 'plain', 'float32', 'direct')]
  rows += [('jax', variant, 'bfloat16', 'winograd') for variant in ('plain', 'wn')]
  rows += [('flax.linen', 'wn', 'float32', 'direct')]
  rows += [('torch', variant, 'float32', 'eager') for variant in ('plain', 'wn', 'bn')]
  rows += [('torch', 'plain', 'bfloat16', 'eager')]
  rows += [('torch', 'plain', dtype, 'compile') for dtype in ('float32', 'bfloat16')]
  return [Row(*row, width, batch) for row in rows]


def scaling(args: argparse.Namespace) -> None:
  """Measures our `wn` step against batch size, width and depth, one at a time."""
  dtype = args.dtype or 'float32'
  base = {'batch': args.batch, 'width': args.width, 'depth': 3}
  sizes = [base | {along: n} for along, values in SIZES.items() for n in values]
  rows = [Row('jax', 'wn', dtype, 'winograd', **size) for size in [base, *sizes]]
  results, failures = steps.measure(list(dict.fromkeys(rows)), args.rounds)
  for message in failures:
    print(f'left out: {message}', file=sys.stderr)
  print(
    '\n| batch | width | depth | s | min–max | GFLOP/s |\n| --- | --- | --- | --- | --- | --- |'
  )
  for result in results:
    size = [result[along] for along in base]
    seconds, rounds = result['seconds'], result['rounds']
    rate = network.gflop(result['width'], result['batch'], result['depth']) / seconds
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
