"""Runs the trials of a sweep from a config file, here or on a Slurm cluster.

  python -m scripts.sweep configs/cifar.py:SWEEP [--executor local|slurm|print] [--jobs N]

Each trial is a run in runs/EXPERIMENT/SWEEP/TRIAL, with its log in logs/TRIAL.log beside it. A
failed trial does not stop the others. --resume runs the unfinished trials from their checkpoints;
finished ones are never rerun.

  --filter variant=wn,bn --filter learning_rate=0.003   only the trials with these values
  --config.model.dtype=bfloat16                         overrides a value in all trials
  --dry-run                                             shows which trials would be run
  --executor print                                      prints the commands, one per line
  --executor slurm --partition gpu --time 240 --gpus 1 --memory 16 --jobs 8

On Slurm, trials that are preempted or run out of time are requeued and resume from their
checkpoint. Ctrl-C leaves them in the queue; use --resume to watch them again.
"""

import argparse
import math
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.runtime import settings
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors
from scripts.sweep import executors, trials
from scripts.sweep.display import Display, show_plan
from scripts.sweep.watch import watch


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with code 1 if a trial failed."""
  with one_line_errors():
    sys.exit(sweep(parse(argv)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The arguments; `overrides` has those that are written --config.KEY=VALUE, as KEY → VALUE."""
  argv = sys.argv[1:] if argv is None else argv
  overrides = {}
  for text in (text for text in argv if text.startswith('--config.')):
    key, separator, value = text.removeprefix('--config.').partition('=')
    if not separator:
      raise UserError(f'{text}: write --config.KEY=VALUE.')
    overrides[key] = value
  args = _parser().parse_args([text for text in argv if not text.startswith('--config.')])
  args.overrides = overrides
  return args


def sweep(args: argparse.Namespace) -> int:
  """Runs a sweep and returns the exit code.

  Raises:
    UserError: the sweep is unknown or empty, or can't be run like this; nothing was started.
  """
  _check_sizes(args)
  directory, selected = trials.load(args.sweep, args.runs, args.data_dir, args.overrides)
  selected = trials.select(selected, args.filter)
  for key in args.overrides:
    if all(key in settings.unused(trial.config) for trial in selected):
      print(f'warning: --config.{key} changes nothing in any of these trials.', file=sys.stderr)
  if args.executor == 'print':
    for trial in selected:
      print(shlex.join(trial.command))
    return 0
  for trial in selected:
    trials.check(trial)
  left = [trial for trial in selected if not trials.is_finished(trial)]
  if args.dry_run:
    show_plan(selected, left)
    return 0
  if not args.resume and (started := [trial for trial in selected if trial.workdir.exists()]):
    raise UserError(
      f'{directory} has {len(started)} of these {len(selected)} trials already, '
      f'{len(selected) - len(left)} of them finished; add --resume to run the others.'
    )
  if not left:
    print(f'all {len(selected)} trials are finished.')
    return 0
  executor = executors.create(args, directory)
  # SIGTERM ends a sweep like Ctrl-C.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    with executors.locked(directory), Display(selected) as display:
      failed = watch(selected, left, executor, display)
  except KeyboardInterrupt:
    print('interrupted; rerun the same command with --resume to continue.', file=sys.stderr)
    return 130
  for trial in failed:
    print(f'\n{trial.name} failed; the end of {trial.log}:\n{trials.last_lines(trial.log)}')
  print(f'\n{len(selected) - len(failed)} of {len(selected)} trials are finished.')
  if failed:
    print('Rerun the same command with --resume to resume the others from their checkpoints.')
  return 1 if failed else 0


def _parser() -> ArgumentParser:
  parser = ArgumentParser(__doc__, 'python -m scripts.sweep')
  add = parser.add_argument
  add('sweep', metavar='CONFIG.py:SWEEP')
  add('--executor', choices=('local', 'slurm', 'print'), default='local')
  add('--jobs', type=int, default=1, help='concurrent trials, on Slurm per array (default 1)')
  add('--filter', action='append', default=[], metavar='KEY=VALUE[,VALUE]', help='may be repeated')
  add('--dry-run', action='store_true', help='show the trials and run nothing')
  add('--resume', action='store_true', help='run the unfinished trials')
  add('--runs', type=Path, default=Path('runs'), help='directory of all runs (default runs)')
  add('--data_dir', help='folder of the data sets')
  add('--gpus', type=int, default=0, help='NVIDIA GPUs per trial')
  slurm = parser.add_argument_group('Slurm').add_argument
  slurm('--partition')
  slurm('--time', type=int, default=24 * 60, metavar='MINUTES', help='per trial (default a day)')
  slurm('--memory', type=float, metavar='GB', help='memory per trial')
  slurm('--cpus', type=int, default=2, help='CPUs per trial (default 2)')
  slurm('--array-size', type=int, default=1000, help='trials per job array (default 1000)')
  return parser


def _check_sizes(args: argparse.Namespace) -> None:
  for name, least in (('jobs', 1), ('gpus', 0), ('time', 5), ('cpus', 1), ('array_size', 1)):
    if getattr(args, name) < least:
      flag = name.replace('_', '-')
      raise UserError(f'--{flag} {getattr(args, name)}: it must be at least {least}.')
  if args.memory is not None and not 0 < args.memory < math.inf:
    raise UserError(f'--memory {args.memory}: it must be above 0.')


if __name__ == '__main__':
  main()
