"""Writes the table of the paper's claims, and what became of them here, into README.md.

  python -m scripts.report.claims [--results results] [--readme README.md]

Every number of ours is computed from the rows under `results/`. A claim is *reproduced* when the
paper's own protocol ran to its end and agrees with its values; *consistent so far* when a part of
it, or a smaller one, agrees; *not seen* when it shows no difference; *contradicted* when it shows
the opposite; *too early* when the runs do not reach where the paper sees a difference; and
*not run* when nothing is recorded.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from configs import cifar
from experiments.runtime.errors import ArgumentParser, one_line_errors
from experiments.runtime.metrics import Row, read_rows
from scripts.report import output, paper
from scripts.report.seeds import over_seeds

Runs = Mapping[str, Sequence[Sequence[Row]]]  # variant → the rows of each seed
NOT_RUN = 'not run'
CONSISTENT, NOT_SEEN, CONTRADICTED = 'consistent so far', 'not seen', 'contradicted'
TOO_EARLY = 'too early'


@dataclasses.dataclass(frozen=True)
class Finding:
  """What is recorded about a claim: a text with numbers, and one of the verdicts."""

  ours: str
  verdict: str


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim of the paper.

  Attributes:
    source: section and figure.
    text: the claim.
    paper: its values in the paper.
    find: the folder of results → `Finding`.
    command: reproduces it.
  """

  source: str
  text: str
  paper: str
  find: Callable[[Path], Finding]
  command: str


def read_runs(folder: Path) -> Runs:
  """The recorded runs `folder/VARIANT/seedK`."""
  runs: dict[str, list[list[Row]]] = {}
  for path in sorted(folder.glob('*/seed*/metrics.jsonl')):
    runs.setdefault(path.parts[-3], []).append(read_rows(path))
  return runs


def at_epoch(rows: Sequence[Row], metric: str, epoch: float) -> float | None:
  """The value of a metric in the row of an epoch."""
  values = [row[metric] for row in rows if metric in row and row['epoch'] == epoch]
  return values[-1] if values else None


def last_epoch(runs: Runs, metric: str) -> int:
  """The last epoch that all runs have evaluated; 0 if there are none."""
  last = [
    max((row['epoch'] for row in rows if metric in row), default=0)
    for seeds in runs.values()
    for rows in seeds
  ]
  return int(min(last, default=0))


def _text(values: Sequence[float], decimals: int) -> str:
  return over_seeds(values, decimals).replace('-', '−')


def compare(
  runs: Runs,
  metric: str,
  *,
  difference: float,
  unit: str,
  what: str,
  scale: float = 1.0,
  decimals: int = 1,
  higher_is_better: bool = True,
) -> Finding:
  """`wn` against `plain` after the last epoch that both have.

  Args:
    runs: of variants; those that end in 'wn' and 'plain' are compared.
    metric: of the evaluation.
    difference: smallest one between the means over seeds that counts, in `unit`.
    unit: of the values.
    what: how far it ran, with `{epoch}`.
    scale: from the metric to the unit.
    decimals: of the values.
    higher_is_better: whether a higher value, after scaling, is better.
  """
  pair = {variant.split('-')[-1]: seeds for variant, seeds in runs.items()}
  pair = {name: pair[name] for name in ('wn', 'plain') if name in pair}
  epoch = last_epoch(pair, metric)
  if not epoch or len(pair) < 2:
    return Finding('', NOT_RUN)

  def values(name: str, epoch: int) -> list[float]:
    return [scale * at_epoch(rows, metric, epoch) for rows in pair[name]]

  text = ', '.join(f'`{name}` {_text(values(name, epoch), decimals)}' for name in pair)
  seeds = max(map(len, pair.values()))
  text += f' {unit} ({what.format(epoch=epoch)}, {seeds} seed{"s" if seeds > 1 else ""})'
  for name, rows in pair.items():
    if (last := last_epoch({name: rows}, metric)) > epoch:
      text += f'; `{name}` alone {_text(values(name, last), decimals)} after {last}'
  advantage = np.mean(values('wn', epoch)) - np.mean(values('plain', epoch))
  if abs(advantage) < difference:
    return Finding(text, NOT_SEEN)
  return Finding(text, CONSISTENT if (advantage > 0) == higher_is_better else CONTRADICTED)


def _cifar_errors(results: Path) -> Finding:
  """Reproduced: all within half a point of the paper after 200 epochs, `wn_mean_bn` the best."""
  runs = read_runs(results / 'cifar-paper')
  if not (epoch := last_epoch(runs, 'test/error')):
    return Finding('', NOT_RUN)
  values = {
    name: [100 * at_epoch(rows, 'test/error', epoch) for rows in seeds]
    for name, seeds in runs.items()
  }
  text = ', '.join(f'`{name}` {_text(errors, 2)}' for name, errors in values.items())
  text += f' % after {epoch} epochs'
  means = {name: np.mean(errors) for name, errors in values.items()}
  if min(means, key=means.get) != 'wn_mean_bn':
    return Finding(text, CONTRADICTED)
  in_paper = paper.last(2)
  is_whole = epoch == 200 and means.keys() >= in_paper.keys()
  agrees = all(abs(means[name] - in_paper[name]) <= 0.5 for name in means.keys() & in_paper.keys())
  return Finding(text, 'reproduced' if is_whole and agrees else CONSISTENT)


def _rates(results: Path) -> Finding:
  """Compares the ranges of rates with an error of at most 5 points above that of the best rate."""
  errors: dict[str, dict[float, list[float]]] = {}  # variant → rate → % of each seed
  for path in sorted((results / 'cifar-scaled').glob('*/learning_rate=*/seed*/metrics.jsonl')):
    variant, rate = path.parts[-4], float(path.parts[-3].removeprefix('learning_rate='))
    if variant in ('wn', 'plain'):
      error = at_epoch(read_rows(path), 'test/error', 12)
      percent = np.inf if error is None else 100 * error  # it diverged
      errors.setdefault(variant, {}).setdefault(rate, []).append(percent)
  if len(errors) < 2:
    return Finding('', NOT_RUN)
  text = '; '.join(
    f'`{variant}` ' + ', '.join(f'{_text(found[r], 1)} at {r:g}' for r in sorted(found))
    for variant, found in sorted(errors.items(), reverse=True)
  )
  text += ' (% test error, 12 epochs at a third of the width)'
  if not all(found.keys() >= set(cifar.RATES) for found in errors.values()):
    return Finding(text, TOO_EARLY)

  def width(found: Mapping[float, Sequence[float]]) -> float:
    means = {rate: np.mean(values) for rate, values in found.items()}
    usable = [rate for rate, mean in means.items() if mean <= min(means.values()) + 5]
    return max(usable) / min(usable)

  wn, plain = width(errors['wn']), width(errors['plain'])
  return Finding(text, CONSISTENT if wn > plain else NOT_SEEN if wn == plain else CONTRADICTED)


def _cifar_training(results: Path) -> Finding:
  return compare(
    read_runs(results / 'cifar-fifty'),
    'test/error',
    difference=0.5,
    unit='% test error',
    what='{epoch} epochs at a third of the width',
    scale=100,
    decimals=2,
    higher_is_better=False,
  )


def _vae(results: Path) -> Finding:
  runs = read_runs(results / 'vae-mnist')
  finding = compare(
    {name: seeds for name, seeds in runs.items() if 'iaf' in name},
    'test/nll_bound',
    difference=0.3,
    unit='nats',
    what='{epoch} epochs, a shorter parameter average',
    scale=-1,
    decimals=2,
  )
  if finding.verdict == NOT_SEEN and last_epoch(runs, 'test/nll_bound') < 80:
    return Finding(finding.ours, TOO_EARLY)
  return finding


def _draw(results: Path) -> Finding:
  return compare(
    read_runs(results / 'draw-prefix'),
    'test/nll_bound',
    difference=2.0,
    unit='nats',
    what='{epoch} epochs of its protocol',
    scale=-1,
  )


def _dqn(results: Path) -> Finding:
  return compare(
    read_runs(results / 'dqn-space-invaders'),
    'eval/score',
    difference=50.0,
    unit='points',
    what='{epoch} epochs of the scaled protocol',
    decimals=0,
  )


CLAIMS = (
  Claim(
    '§2.1',
    'CIFAR-10: `wn` works over a wider range of learning rates than `plain`',
    'stated without values',
    _rates,
    'python -m scripts.sweep configs/cifar.py:scaled_rates',
  ),
  Claim(
    '§5.1, Figure 2',
    'CIFAR-10: `wn` with mean-only batch normalization has the lowest test error',
    '`wn_mean_bn` 7.31, `bn` 8.05, `plain` 8.43, `wn` 8.46, `mean_bn` 8.52 %',
    _cifar_errors,
    'python -m scripts.sweep configs/cifar.py:figure2',
  ),
  Claim(
    '§5.1, Figure 1',
    'CIFAR-10: `wn` learns faster than `plain`, each at its rate',
    'training error `wn` 3.3, `plain` 4.8 % after 50 epochs',
    _cifar_training,
    'python -m scripts.sweep configs/cifar.py:fifty',
  ),
  Claim(
    '§5.2, Figure 3',
    'MNIST VAE: `wn` ends ahead of `plain`',
    '`wn` −85.3, `plain` −85.85 nats after 300 epochs; no difference before 80',
    _vae,
    'python -m scripts.sweep configs/vae.py:figure3',
  ),
  Claim(
    '§5.3, Figure 4',
    'DRAW: `wn` learns several times faster',
    '`wn` −120 nats at epoch 5, −102.5 at 10, −94 at 20; `plain` −120 at 37',
    _draw,
    'python -m scripts.sweep configs/draw.py:figure4_prefix',
  ),
  Claim(
    '§5.4, Figures 5 and 6',
    'DQN on Space Invaders: `wn` ends higher',
    '`wn` 2,179, `plain` 1,779 points; no difference in the first 10 million frames',
    _dqn,
    'python -m scripts.sweep configs/dqn.py:figure6',
  ),
)


def table(results: Path) -> str:
  """The claims as a Markdown table."""
  lines = ['| claim | paper | ours | verdict | command |', '| --- | --- | --- | --- | --- |']
  for claim in CLAIMS:
    finding = claim.find(results)
    cells = (
      f'{claim.text} ({claim.source})',
      claim.paper,
      finding.ours or '–',
      f'*{finding.verdict}*',
      f'`{claim.command}`',
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m scripts.report.claims')
  parser.add_argument('--results', type=Path, default=Path('results'))
  parser.add_argument('--readme', type=Path, default=Path('README.md'))
  with one_line_errors():
    args = parser.parse_args(argv)
    output.check_markers(args.readme, 'claims')
    output.replace_block(args.readme, 'claims', table(args.results))


if __name__ == '__main__':
  main()
