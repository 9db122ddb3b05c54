"""Turns runs into the paper's tables and figures.

  python -m scripts.report RUNS... --out results/cifar-scaled [--readme README.md] [--block NAME]
    [--steps results/benchmark/step-width32.json] [--note 'One sentence.']

RUNS are directories of runs, or any directories above them. Reads `config.json`, `summary.json`,
`metrics.jsonl`, later measurements (`likelihood-K.json`, `score-N.json`) and the runs' pictures.
Damaged runs are left out, with a message; unfinished ones too, except for a table of how far they
came; a run of a sweep that diverged counts as diverged.

Runs of one experiment on the same data that differ only in parameterization, seed and learning
rate form a section. Each section has a directory in --out (a single section uses --out itself)
with figures as PNG and SVG, tables as Markdown and CSV, and copies of the input files. Figures are
numbered as in the paper's proceedings version, whose values, read off its curves, are drawn beside
ours. `index.html` in --out shows the whole report and needs no other file. --note is added to the
main captions. --readme also replaces the block of that file between the lines `<!-- NAME -->` and
`<!-- /NAME -->`; NAME is --block, by default the name of --out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import results
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors
from scripts.report import output, sections


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command."""
  parser = ArgumentParser(__doc__, 'python -m scripts.report')
  parser.add_argument('runs', nargs='+', type=Path, help='directories of runs, or above them')
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--readme', type=Path, help='file to replace a block in')
  parser.add_argument('--block', help='name of the block (default: name of --out)')
  parser.add_argument('--steps', type=Path, help='step times, for the error against time')
  parser.add_argument('--note', default='', help='sentence for the main captions')
  with one_line_errors():
    args = parser.parse_args(argv)
    name = args.block or args.out.resolve().name
    runs, problems = results.find(args.runs)
    made, more_problems = sections.make(runs, steps=args.steps, note=args.note)
    problems += more_problems
    if not made:
      others = f' (and {len(problems) - 1} more left out)' if len(problems) > 1 else ''
      raise UserError(f'no finished runs to report: {problems[0]}{others}')
    for problem in problems:
      print(f'left out: {problem}', file=sys.stderr)
    if args.readme:
      output.check_markers(args.readme, name)
    page = args.readme.parent if args.readme else Path()
    block = output.write(made, args.out, page)
    if args.readme:
      output.replace_block(args.readme, name, block)
    print(block)
    print(f'\nThe whole report, for a browser: {args.out}/index.html')


if __name__ == '__main__':
  main()
