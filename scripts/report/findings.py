"""What the recorded results say about a claim of the paper; `cifar_findings` has CIFAR-10's."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.report import paper, protocol, recorded
from scripts.report.recorded import Recorded, Runs
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
class Scale:
  """How the values of a metric are told and judged.

  Attributes:
    metric: of the evaluation.
    unit: of the values.
    factor: from the metric to the unit.
    decimals: of the values.
    higher_is_better: whether a higher value, in the unit, is better.
    difference: smallest one between the means over seeds that counts.
    close: largest one between a mean and the paper's value that agrees.
    value_of: a run and an epoch → the metric; by default that of the epoch.
  """

  metric: str
  unit: str
  factor: float = 1.0
  decimals: int = 1
  higher_is_better: bool = True
  difference: float = 0.0
  close: float = 0.0
  value_of: Callable[[Recorded, int], float] | None = None

  def value(self, run: Recorded, epoch: int) -> float:
    """The value of a run at an epoch, in the unit."""
    value = self.value_of(run, epoch) if self.value_of else run.at(self.metric, epoch)
    return self.factor * value

  def last_value(self, run: Recorded) -> float:
    """The value at the run's end."""
    return self.value(run, run.last_epoch(self.metric))


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


def read_pair(folder: Path, scale: Scale, prefix: str = '') -> Runs:
  """The finished runs of `wn` and `plain`, each at the best of the learning rates tried.

  `prefix` is what the names of their variants start with.
  """
  runs = recorded.read(folder)
  pair = {name: runs[prefix + name] for name in ('wn', 'plain') if prefix + name in runs}
  return recorded.at_best(pair, scale.last_value, higher_is_better=scale.higher_is_better)


def compare(
  pair: Runs, scale: Scale, what: str, in_paper: Mapping[str, float] | None = None
) -> Finding:
  """`wn` against `plain` after the last epoch that both have.

  Args:
    pair: of `read_pair`.
    scale: of the values.
    what: how far it ran, with `{epoch}`.
    in_paper: final values of `wn` and `plain` there; close to them at the end of the paper's own
      protocol, the claim is reproduced.
  """
  epoch = recorded.last_epoch(pair, scale.metric)
  if not epoch or len(pair) < 2:
    return Finding('', NOT_RUN)

  def values(name: str, epoch: int) -> list[float]:
    return [scale.value(run, epoch) for run in pair[name]]

  text = named({name: values(name, epoch) for name in pair}, scale.decimals)
  text += f' {scale.unit} ({what.format(epoch=epoch)}, {count_of_seeds(pair)})'
  for name, runs in pair.items():
    if (last := recorded.last_epoch({name: runs}, scale.metric)) > epoch:
      text += f'; `{name}` alone {numbers(values(name, last), scale.decimals)} after {last}'
  means = {name: float(np.mean(values(name, epoch))) for name in pair}
  advantage = means['wn'] - means['plain']
  if abs(advantage) < scale.difference:
    return Finding(text, NOT_SEEN)
  if (advantage > 0) != scale.higher_is_better:
    return Finding(text, CONTRADICTED)
  is_close = in_paper and all(abs(means[n] - in_paper[n]) <= scale.close for n in means)
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
  scale = Scale('test/nll_bound', 'nats', factor=-1, decimals=2, difference=0.3, close=0.3)
  pair = read_pair(results / 'vae-mnist', scale, 'mnist-iaf-')
  finding = compare(pair, scale, '{epoch} epochs' + of_protocol(pair), paper_ends(3, 'mnist-iaf-'))
  return too_early(finding) if recorded.last_epoch(pair, scale.metric) < 80 else finding


def draw(results: Path) -> Finding:
  """After the last epoch that both have; the paper's curves are tens of nats apart until 40.

  Also tells after how many epochs each first reaches −120 nats.
  """
  scale = Scale('test/nll_bound', 'nats', factor=-1, difference=2.0, close=2.0)
  pair = read_pair(results / 'draw-prefix', scale)
  finding = compare(pair, scale, '{epoch} epochs' + of_protocol(pair), paper_ends(4))
  if finding.verdict == NOT_RUN:
    return finding
  goal = -120.0
  first = [
    f'`{name}` {", ".join(_first_epoch(run, scale, goal) for run in seeds)}'
    for name, seeds in pair.items()
  ]
  return dataclasses.replace(
    finding, ours=f'{finding.ours}; −120 nats after {", ".join(first)} epochs'
  )


def _first_epoch(run: Recorded, scale: Scale, goal: float) -> str:
  """The first epoch with a value of at least `goal`; 'over 20' if there is none."""
  last = run.last_epoch(scale.metric)
  reached = (epoch for epoch in range(1, last + 1) if scale.value(run, epoch) >= goal)
  return str(next(reached, f'over {last}'))


def dqn(results: Path) -> Finding:
  """Highest scores of Space Invaders; in the paper none differ in the first 10 million frames."""

  def highest(run: Recorded, epoch: int) -> float:
    rows = (row for row in run.rows if 'eval/score' in row and row['epoch'] <= epoch)
    return max(row['eval/score'] for row in rows)

  scale = Scale('eval/score', 'points', decimals=0, difference=50.0, close=300.0, value_of=highest)
  pair = read_pair(results / 'dqn-space-invaders', scale, 'space_invaders-')
  frames = min((max(row['frames'] for row in run.rows) for run in recorded.flat(pair)), default=0)
  what = f'the highest in {frames / 1e6:g} million frames{of_protocol(pair)}'
  finding = compare(pair, scale, what, paper_ends(6, 'space_invaders-'))
  return finding if frames > 10e6 else too_early(finding)
