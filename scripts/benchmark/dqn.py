"""The benchmark `dqn`: agent steps per second of our loop and of a simple one.

`python -m scripts.benchmark.dqn KIND PARAMETERIZATION` is the process of one row; see `worker`.
"""

import argparse
import itertools
import os
import statistics
import sys

from configs.variants import PARAMETERIZATIONS
from experiments.runtime.errors import UserError
from scripts.benchmark import network, steps
from scripts.benchmark.worker import Process, serve

# Kind of row → its unit, and the number of units timed at once.
UNITS = {
  'ours': ('agent steps', 48),
  'single environment': ('agent steps', 48),
  'single environment, XLA as it comes': ('agent steps', 48),
  'update': ('updates of 64 transitions', 8),
  'act': ('actions for 8 environments', 20),
}
LOOPS = [kind for kind, (unit, _) in UNITS.items() if unit == 'agent steps']


def dqn(args: argparse.Namespace) -> None:
  """Measures all rows in turns, each in its own process.

  Raises:
    UserError: all rows failed.
  """
  processes, failures = [], []
  rows = list(itertools.product(PARAMETERIZATIONS, UNITS))
  try:
    for param, kind in rows:
      print(f'  starting {param}, {kind}', file=sys.stderr)
      try:
        processes.append(((param, kind), _start(param, kind)))
      except UserError as error:
        failures.append(str(error))
    rounds = [[process.step() for _, process in processes] for _ in range(args.rounds)]
    results = [
      {
        'param': param,
        'kind': kind,
        'seconds': statistics.median(seconds),
        'rounds': list(seconds),
        'count': UNITS[kind][1],
        'peak_memory_gb': process.close(),
      }
      for ((param, kind), process), seconds in zip(processes, zip(*rounds))
    ]
  finally:
    for _, process in processes:
      process.kill()
  for message in failures:
    print(f'left out: {message}', file=sys.stderr)
  if not results:
    raise UserError('no row could be measured; see above.')
  print(table(results))
  if args.json:
    content = {'machine': steps.machine(), 'rows': results, 'left_out': failures}
    steps.write(args.json, content)


def table(results: list[steps.Results]) -> str:
  """Markdown table of rates, times and our speedup.

  The speedup is the median of the ratios within each round, with the smallest and the largest.
  """
  header = ['network', 'what', 'a second', 'ms each', 'min–max', 'ours is faster by', 'GB']
  lines = ['| ' + ' | '.join(header) + ' |', '| --- ' * len(header) + '|']
  rounds = {(result['param'], result['kind']): result['rounds'] for result in results}
  for result in results:
    param, kind, count = result['param'], result['kind'], result['count']
    unit = UNITS[kind][0]
    each = [1000 * seconds / count for seconds in result['rounds']]
    ratios = []
    if kind in LOOPS and (param, 'ours') in rounds:
      ratios = [theirs / ours for theirs, ours in zip(result['rounds'], rounds[param, 'ours'])]
    cells = [
      param,
      f'{unit}: {kind}' if kind in LOOPS else unit,
      f'{count / result["seconds"]:.0f}',
      f'{statistics.median(each):.2f}',
      f'{min(each):.2f}–{max(each):.2f}',
      f'{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})' if ratios else '',
      f'{result["peak_memory_gb"]:.2f}',
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _start(param: str, kind: str) -> Process:
  env = dict(os.environ)
  if kind.endswith('XLA as it comes'):
    env = steps.unprepared(env)
  return Process(f'{param}, {kind}', 'scripts.benchmark.dqn', [kind, param], env)


def build(kind: str, param: str) -> network.Step:
  """Returns the function that a row times, which does `UNITS[kind]`; learning has started."""
  import jax
  from ml_collections import config_dict

  from configs import dqn as configs
  from experiments.dqn.actor_learner import ActorLearner
  from scripts.benchmark.single_environment import SingleEnvironment

  config = configs.get_config(f'space_invaders-{param},scaled')
  config.replay.update(learning_starts=400, capacity=4000)
  config.exploration.start = config.exploration.end
  config = config_dict.FrozenConfigDict(config)
  count = UNITS[kind][1]
  is_ours = not kind.startswith('single')
  learner = ActorLearner(config) if is_ours else SingleEnvironment(config)
  while learner.steps < config.replay.learning_starts:
    learner.step()

  def loop() -> None:
    end = learner.steps + count
    while learner.steps < end:
      learner.step()
    if is_ours:
      jax.block_until_ready(learner.state)

  def update() -> None:
    for _ in range(count * config.learning.update_period // config.env.num_envs):
      learner.learn()
    jax.block_until_ready(learner.state)

  def act() -> None:
    policy = learner.eval_policy()
    for i in range(count):
      policy(i, learner.games.observations)

  return {'update': update, 'act': act}.get(kind, loop)


def main() -> None:
  """Runs the process of a row."""
  serve(lambda: build(*sys.argv[1:]))


if __name__ == '__main__':
  main()
