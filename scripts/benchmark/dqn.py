"""The benchmark `dqn`: agent steps and updates per second of our loop and of simple ones.

`python -m scripts.benchmark.dqn KIND PARAMETERIZATION` is the process of one row; see `worker`.
"""

import argparse
import functools
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import config_dict

from configs.variants import PARAMETERIZATIONS
from experiments.runtime.errors import UserError
from scripts.benchmark import steps
from scripts.benchmark.stepper import Stepper
from scripts.benchmark.worker import Process, serve

STEPS, UPDATES = 'agent steps', 'updates of 64 transitions'
# Kind of row → its unit, and the number of units timed at once.
UNITS = {
  'ours': (STEPS, 48),
  'single environment': (STEPS, 48),
  'single environment, XLA as it comes': (STEPS, 48),
  'single environment, PyTorch': (STEPS, 48),
  'update': (UPDATES, 8),
  'update, PyTorch': (UPDATES, 8),
  'act': ('actions for 8 environments', 20),
}
OURS = {STEPS: 'ours', UPDATES: 'update'}  # what the other rows of a unit are compared with


class Row(NamedTuple):
  """A parameterization, and one of `UNITS`."""

  param: str
  kind: str

  @property
  def is_torch(self) -> bool:
    """Whether it needs PyTorch."""
    return self.kind.endswith('PyTorch')

  def __str__(self) -> str:
    return f'{self.param}, {self.kind}'


def dqn(args: argparse.Namespace) -> None:
  """Measures all rows in turns, each in its own process.

  Raises:
    UserError: all rows failed.
  """
  rows = [Row(param, kind) for param in PARAMETERIZATIONS for kind in UNITS]
  rows = [row for row in rows if row.param == 'plain' or not row.is_torch]
  rows, missing = steps.possible(rows, lambda row: row.is_torch)
  measured, failures = steps.in_turns(
    {row: functools.partial(_start, *row) for row in rows}, args.rounds
  )
  results = [{**row._asdict(), 'count': UNITS[row.kind][1], **times} for row, times in measured]
  for message in missing + failures:
    print(f'left out: {message}', file=sys.stderr)
  if not results:
    raise UserError('no row could be measured; see above.')
  print(table(results))
  if args.json:
    content = {'machine': steps.machine(), 'rows': results, 'left_out': missing + failures}
    steps.write(args.json, content)


def table(results: list[steps.Results]) -> str:
  """Markdown table of rates and times, also as multiples of ours.

  These are medians of the ratios within each round, with the smallest and the largest.
  """
  header = ['network', 'what', 'a second', 'ms each', 'min–max', 'time / ours', 'GB']
  lines = ['| ' + ' | '.join(header) + ' |', '| --- ' * len(header) + '|']
  rounds = {(result['param'], result['kind']): result['rounds'] for result in results}
  for result in results:
    param, kind, count = result['param'], result['kind'], result['count']
    unit = UNITS[kind][0]
    each = [1000 * seconds / count for seconds in result['rounds']]
    ratios = []
    if (param, OURS.get(unit)) in rounds:
      ours = rounds[param, OURS[unit]]
      ratios = [x / y for x, y in zip(result['rounds'], ours)]
    cells = [
      param,
      f'{unit}: {kind}' if unit in OURS else unit,
      f'{count / result["seconds"]:.0f}',
      f'{statistics.median(each):.2f}',
      f'{min(each):.2f}–{max(each):.2f}',
      f'{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})' if ratios else '',
      steps.gigabytes(result['peak_memory_gb']),
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _start(param: str, kind: str) -> Process:
  env = dict(os.environ)
  if kind.endswith('XLA as it comes'):
    env = steps.unprepared(env)
  return Process(str(Row(param, kind)), 'scripts.benchmark.dqn', [kind, param], env)


def build(kind: str, param: str) -> Stepper:
  """What a row times: each step of it does `UNITS[kind]`. Learning has started."""
  from configs import dqn as configs

  config = configs.get_config(f'space_invaders-{param},scaled')
  config.replay.update(learning_starts=400, capacity=4000)
  config.exploration.start = config.exploration.end
  config = config_dict.FrozenConfigDict(config)
  count = UNITS[kind][1]
  is_ours = kind in ('ours', 'update', 'act')
  learner, wait = _ours(config) if is_ours else _single(config, is_torch=Row(param, kind).is_torch)
  while learner.steps < config.replay.learning_starts:
    learner.step()

  def loop() -> None:
    end = learner.steps + count
    while learner.steps < end:
      learner.step()

  def update() -> None:
    updates = config.env.num_envs // config.learning.update_period if is_ours else 1
    for _ in range(count // updates):
      learner.learn()

  def act() -> None:
    policy = learner.eval_policy()
    for i in range(count):
      policy(i, learner.games.observations)

  unit = UNITS[kind][0]
  return Stepper({STEPS: loop, UPDATES: update}.get(unit, act), wait)


def _ours(config: config_dict.FrozenConfigDict) -> tuple[Any, Callable[[], None]]:
  """Our loop, and what waits for its updates."""
  import jax

  from experiments.dqn.actor_learner import ActorLearner

  learner = ActorLearner(config)
  return learner, lambda: jax.block_until_ready(learner.state)


def _single(
  config: config_dict.FrozenConfigDict, *, is_torch: bool
) -> tuple[Any, Callable[[], None]]:
  """The simple loop, which waits for each update itself."""
  from scripts.benchmark import single_environment as single

  agent = single.TorchAgent if is_torch else single.JaxAgent
  return single.SingleEnvironment(config, agent), lambda: None


def main() -> None:
  """Runs the process of a row."""
  serve(lambda: build(*sys.argv[1:]))


if __name__ == '__main__':
  main()
