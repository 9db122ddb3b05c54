"""What the recorded results say about a claim of the paper; `cifar_findings` has CIFAR-10's."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.report import dqn as dqn_report
from scripts.report import draw as draw_report
from scripts.report import paper, protocol, recorded
from scripts.report import vae as vae_report
from scripts.report.evaluations import Measure
from scripts.report.recorded import Recorded, Runs, RunsAtRates
from scripts.report.seeds import over_seeds

NOT_RUN, REPRODUCED = 'not run', 'reproduced'
CONSISTENT, NOT_SEEN, CONTRADICTED = 'consistent so far', 'not seen', 'contradicted'
TOO_EARLY = 'too early'


@dataclasses.dataclass(frozen=True)
class Finding:
  """What is recorded about a claim: a text with numbers, and one of the verdicts."""

  ours: str
  verdict: str


@dataclasses.dataclass(frozen=True)
class Criterion:
  """How the values of a measure are told and judged.

  Attributes:
    measure: of the report, with its scale and direction.
    unit: of the scaled values.
    decimals: of the values.
    difference: smallest one between the means over seeds that counts.
    close: largest one between a mean and the paper's value that agrees.
    value_of: a run and an epoch → the metric; by default that of the epoch.
  """

  measure: Measure
  unit: str
  decimals: int = 1
  difference: float = 0.0
  close: float = 0.0
  value_of: Callable[[Recorded, int], float] | None = None

  def value(self, run: Recorded, epoch: int) -> float:
    """The value of a run at an epoch, in the unit."""
    metric = self.measure.metric
    value = self.value_of(run, epoch) if self.value_of else run.at(metric, epoch)
    return self.measure.scale * value

  def best(self, runs: RunsAtRates) -> Runs:
    """The runs of each variant at its learning rate with the best mean value at the end."""
    metric = self.measure.metric
    return recorded.at_best(
      runs,
      lambda run: self.value(run, run.last_epoch(metric)),
      higher_is_better=not self.measure.lower_is_better,
    )


def numbers(values: Sequence[float], decimals: int) -> str:
  """The values of the seeds, or their mean and interval."""
  return over_seeds(values, decimals).replace('-', '−')


def named(values: Mapping[str, Sequence[float]], decimals: int) -> str:
  """E.g. '`wn` 8.25, `plain` 10.02'."""
  return ', '.join(f'`{name}` {numbers(each, decimals)}' for name, each in values.items())


def count_of_seeds(runs: Runs) -> str:
  """'1 seed', or the largest number of seeds of a variant."""
  most = max(map(len, runs.values()))
  return f'{most} seed{"s" if most > 1 else ""}'


def read_pair(folder: Path, criterion: Criterion, prefix: str = '') -> Runs:
  """The finished runs of `wn` and `plain`, each at the best of the learning rates tried.

  `prefix` is what the names of their variants start with.
  """
  runs = recorded.read(folder)
  pair = {name: runs[prefix + name] for name in ('wn', 'plain') if prefix + name in runs}
  return criterion.best(pair)


def compare(
  pair: Runs, criterion: Criterion, what: str, in_paper: Mapping[str, float] | None = None
) -> Finding:
  """`wn` against `plain` after the last epoch that both have.

  Args:
    pair: of `read_pair`.
    criterion: for the values.
    what: how far it ran, with `{epoch}`.
    in_paper: final values of `wn` and `plain` there; close to them at the end of the paper's own
      protocol, the claim is reproduced.
  """
  epoch = recorded.last_epoch(pair, criterion.measure.metric)
  if not epoch or len(pair) < 2:
    return Finding('', NOT_RUN)

  def values(name: str, epoch: int) -> list[float]:
    return [criterion.value(run, epoch) for run in pair[name]]

  text = named({name: values(name, epoch) for name in pair}, criterion.decimals)
  text += f' {criterion.unit} ({what.format(epoch=epoch)}, {count_of_seeds(pair)})'
  for name, runs in pair.items():
    if (last := recorded.last_epoch({name: runs}, criterion.measure.metric)) > epoch:
      text += f'; `{name}` alone {numbers(values(name, last), criterion.decimals)} after {last}'
  means = {name: float(np.mean(values(name, epoch))) for name in pair}
  advantage = means['wn'] - means['plain']
  if abs(advantage) < criterion.difference:
    return Finding(text, NOT_SEEN)
  if (advantage > 0) == criterion.measure.lower_is_better:
    return Finding(text, CONTRADICTED)
  is_close = in_paper and all(abs(means[n] - in_paper[n]) <= criterion.close for n in means)
  return Finding(text, REPRODUCED if is_close and is_whole(pair) else CONSISTENT)


def is_whole(runs: Runs) -> bool:
  """Whether all runs are the paper's protocol to its end."""
  every = recorded.flat(runs)
  return not any(run.is_of_older_format for run in every) and not protocol.departures(every)


def of_protocol(runs: Runs) -> str:
  """' of its protocol', meaning the paper's; or how the runs differ from it, but for the epochs."""
  every = recorded.flat(runs)
  if any(run.is_of_older_format for run in every):
    return ', a shorter parameter average'  # so it is with the only such runs, of the VAE
  if names := sorted({run.config['protocol'] for run in every} - {'paper'}):
    return f' of the {" or ".join(names)} protocol'
  changes = protocol.departures(every, but=('epochs',))
  return f', unlike the paper: {changes}' if changes else ' of its protocol'


def too_early(finding: Finding) -> Finding:
  """The finding from runs that end before the paper sees a difference."""
  return finding if finding.verdict == NOT_RUN else Finding(finding.ours, TOO_EARLY)


def paper_ends(figure: int, prefix: str = '') -> dict[str, float]:
  """The paper's final values of `wn` and `plain` in a figure, whose series start with `prefix`."""
  return {name: paper.last(figure)[f'{prefix}{name}'] for name in ('wn', 'plain')}


def vae(results: Path) -> Finding:
  """The paper sees no difference before epoch 80."""
  criterion = Criterion(vae_report.NATS, 'nats', decimals=2, difference=0.3, close=0.3)
  pair = read_pair(results / 'vae-mnist', criterion, 'mnist-iaf-')
  finding = compare(
    pair, criterion, '{epoch} epochs' + of_protocol(pair), paper_ends(3, 'mnist-iaf-')
  )
  return too_early(finding) if recorded.last_epoch(pair, criterion.measure.metric) < 80 else finding


def draw(results: Path) -> Finding:
  """After the last epoch that both have; the paper's curves are tens of nats apart until 40.

  Also tells after how many epochs each first reaches −120 nats.
  """
  criterion = Criterion(draw_report.BOUND, 'nats', difference=2.0, close=2.0)
  pair = read_pair(results / 'draw-prefix', criterion)
  finding = compare(pair, criterion, '{epoch} epochs' + of_protocol(pair), paper_ends(4))
  if finding.verdict == NOT_RUN:
    return finding
  goal = -120.0
  first = [
    f'`{name}` {", ".join(_first_epoch(run, criterion, goal) for run in seeds)}'
    for name, seeds in pair.items()
  ]
  return dataclasses.replace(
    finding, ours=f'{finding.ours}; −120 nats after {", ".join(first)} epochs'
  )


def _first_epoch(run: Recorded, criterion: Criterion, goal: float) -> str:
  """The first epoch with a value of at least `goal`; 'over 20' if there is none."""
  last = run.last_epoch(criterion.measure.metric)
  reached = (epoch for epoch in range(1, last + 1) if criterion.value(run, epoch) >= goal)
  return str(next(reached, f'over {last}'))


def dqn(results: Path) -> Finding:
  """Highest scores of Space Invaders; in the paper none differ in the first 10 million frames."""
  score = dqn_report.SCORE.metric

  def highest(run: Recorded, epoch: int) -> float:
    rows = (row for row in run.rows if score in row and row['epoch'] <= epoch)
    return max(row[score] for row in rows)

  criterion = Criterion(
    dqn_report.SCORE, 'points', decimals=0, difference=50.0, close=300.0, value_of=highest
  )
  pair = read_pair(results / 'dqn-space-invaders', criterion, 'space_invaders-')
  frames = min((max(row['frames'] for row in run.rows) for run in recorded.flat(pair)), default=0)
  what = f'the highest in {frames / 1e6:g} million frames{of_protocol(pair)}'
  finding = compare(pair, criterion, what, paper_ends(6, 'space_invaders-'))
  return finding if frames > 10e6 else too_early(finding)
