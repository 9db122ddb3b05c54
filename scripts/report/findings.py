"""What the recorded results say about a claim of the paper; `cifar_findings` has CIFAR-10's."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from experiments.runtime.metrics import Row, read_rows
from scripts.report.seeds import over_seeds

Runs = Mapping[str, Sequence[Sequence[Row]]]  # variant → the rows of each seed
NOT_RUN, REPRODUCED = 'not run', 'reproduced'
CONSISTENT, NOT_SEEN, CONTRADICTED = 'consistent so far', 'not seen', 'contradicted'
TOO_EARLY = 'too early'


@dataclasses.dataclass(frozen=True)
class Finding:
  """What is recorded about a claim: a text with numbers, and one of the verdicts."""

  ours: str
  verdict: str


def read_runs(folder: Path) -> Runs:
  """The finished runs `folder/VARIANT/seedK`."""
  runs: dict[str, list[list[Row]]] = {}
  for path in sorted(folder.glob('*/seed*/summary.json')):
    runs.setdefault(path.parts[-3], []).append(read_rows(path.with_name('metrics.jsonl')))
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


def numbers(values: Sequence[float], decimals: int) -> str:
  """The values of the seeds, or their mean and interval."""
  return over_seeds(values, decimals).replace('-', '−')


def named(values: Mapping[str, Sequence[float]], decimals: int) -> str:
  """E.g. '`wn` 8.25, `plain` 10.02'."""
  return ', '.join(f'`{name}` {numbers(each, decimals)}' for name, each in values.items())


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
  pair = wn_and_plain(runs)
  epoch = last_epoch(pair, metric)
  if not epoch or len(pair) < 2:
    return Finding('', NOT_RUN)

  def values(name: str, epoch: int) -> list[float]:
    return [scale * at_epoch(rows, metric, epoch) for rows in pair[name]]

  text = named({name: values(name, epoch) for name in pair}, decimals)
  seeds = max(map(len, pair.values()))
  text += f' {unit} ({what.format(epoch=epoch)}, {seeds} seed{"s" if seeds > 1 else ""})'
  for name, rows in pair.items():
    if (last := last_epoch({name: rows}, metric)) > epoch:
      text += f'; `{name}` alone {numbers(values(name, last), decimals)} after {last}'
  advantage = np.mean(values('wn', epoch)) - np.mean(values('plain', epoch))
  if abs(advantage) < difference:
    return Finding(text, NOT_SEEN)
  return Finding(text, CONSISTENT if (advantage > 0) == higher_is_better else CONTRADICTED)


def wn_and_plain(runs: Runs) -> Runs:
  """The runs of `wn` and `plain`, or of variants that end so, in this order."""
  found = {variant.split('-')[-1]: seeds for variant, seeds in runs.items()}
  return {name: found[name] for name in ('wn', 'plain') if name in found}


def too_early(finding: Finding) -> Finding:
  """The finding from runs that end before the paper sees a difference."""
  return finding if finding.verdict == NOT_RUN else Finding(finding.ours, TOO_EARLY)


def vae(results: Path) -> Finding:
  """The paper sees no difference before epoch 80."""
  runs = {name: rows for name, rows in read_runs(results / 'vae-mnist').items() if 'iaf' in name}
  finding = compare(
    runs,
    'test/nll_bound',
    difference=0.3,
    unit='nats',
    what='{epoch} epochs, a shorter parameter average',
    scale=-1,
    decimals=2,
  )
  return too_early(finding) if last_epoch(runs, 'test/nll_bound') < 80 else finding


def draw(results: Path) -> Finding:
  """After the last epoch that both have; the paper's curves are tens of nats apart until 40."""
  return compare(
    read_runs(results / 'draw-prefix'),
    'test/nll_bound',
    difference=2.0,
    unit='nats',
    what='{epoch} epochs of its protocol',
    scale=-1,
  )


def dqn(results: Path) -> Finding:
  """Scores of Space Invaders; the paper sees no difference in the first 10 million frames."""
  runs = wn_and_plain(read_runs(results / 'dqn-space-invaders'))
  frames = min(
    (max(row['frames'] for row in rows if 'eval/score' in row) for rows in chain(*runs.values())),
    default=0,
  )
  finding = compare(
    runs,
    'eval/score',
    difference=50.0,
    unit='points',
    what=f'{frames / 1e6:g} million frames of the scaled protocol',
    decimals=0,
  )
  return finding if frames > 10e6 else too_early(finding)
