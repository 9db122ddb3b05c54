"""What the recorded results say about the claims on CIFAR-10 (§2.1, §5.1)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import cifar
from experiments.runtime.metrics import Row, read_rows
from scripts.report import paper
from scripts.report.findings import (
  CONSISTENT,
  CONTRADICTED,
  NOT_RUN,
  NOT_SEEN,
  REPRODUCED,
  TOO_EARLY,
  Finding,
  Runs,
  at_epoch,
  compare,
  last_epoch,
  named,
  numbers,
  read_runs,
  wn_and_plain,
)

RunsAtRates = Mapping[str, Mapping[float, Sequence[Sequence[Row]]]]  # variant → learning rate → …
_CLOSE = 0.5  # points of an error within which it agrees with the paper's


def lowest_error(results: Path) -> Finding:
  """Reproduced: all close to the paper after 200 epochs, and `wn_mean_bn` the best.

  Each at the best of the learning rates that were tried.
  """
  folder = results / 'cifar-paper'
  runs = _at_best(read_at_rates(folder))
  if not (epoch := last_epoch(runs, 'test/error')):
    return Finding('', NOT_RUN)
  values = {name: _percent(runs[name], 'test/error', epoch) for name in runs}
  text = f'{named(values, 2)} % after {epoch} epochs ({_setting(folder, runs)})'
  means = {name: np.mean(errors) for name, errors in values.items()}
  if min(means, key=means.get) != 'wn_mean_bn':
    return Finding(text, CONTRADICTED)
  in_paper = paper.last(2)
  is_whole = epoch == 200 and means.keys() >= in_paper.keys()
  agrees = all(abs(means[name] - in_paper[name]) <= _CLOSE for name in means.keys() & in_paper)
  return Finding(text, REPRODUCED if is_whole and agrees else CONSISTENT)


def equal_errors(results: Path) -> Finding:
  """Reproduced: after 200 epochs `wn` and `plain` are close, each at the best rate tried.

  Otherwise open, until both have been tried at the paper's four rates.
  """
  folder = results / 'cifar-paper'
  at_rates = read_at_rates(folder)
  runs = wn_and_plain(_at_best(at_rates))
  if len(runs) < 2 or last_epoch(runs, 'test/error') < 200:
    return Finding('', NOT_RUN)
  values = {name: _percent(runs[name], 'test/error', 200) for name in runs}
  tried = '; '.join(f'`{name}` {_rates_of(at_rates[name])}' for name in runs)
  text = f'{named(values, 2)} % after 200 epochs (the best of the rates {tried}; '
  text += f'{_setting(folder, runs)})'
  if released := at_rates.get('plain_released'):
    errors = _percent(_at_best(at_rates)['plain_released'], 'test/error', 200)
    text += f'; `plain_released` {numbers(errors, 2)} at {_rates_of(released)}'
  if abs(np.mean(values['wn']) - np.mean(values['plain'])) <= _CLOSE:
    return Finding(text, REPRODUCED)
  is_whole = all(at_rates[name].keys() >= set(cifar.RATES) for name in runs)
  return Finding(text, CONTRADICTED if is_whole else TOO_EARLY)


def training(results: Path) -> Finding:
  """Reproduced: 200 epochs, with `wn` ahead of `plain` and both close to the paper at 50 and 100.

  They are at the rates of Figure 1. Where nothing ran at the paper's protocol, the smaller runs of
  50 epochs count.
  """
  folder = results / 'cifar-paper'
  at_rates = read_at_rates(folder)
  runs = wn_and_plain({name: at_rates[name].get(cifar.RATE_OF[name], []) for name in at_rates})
  runs = {name: seeds for name, seeds in runs.items() if seeds}
  epoch = last_epoch(runs, 'test/error')
  if len(runs) < 2 or epoch < 100:
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
  curve = paper.figure(1).set_index(['series', 'x'])['y']
  texts, is_ahead, agrees = [], True, True
  for at in (50, 100):
    values = {name: _training_percent(runs[name], at) for name in runs}
    texts.append(f'{named(values, 1)} % after {at} epochs')
    means = {name: np.mean(errors) for name, errors in values.items()}
    is_ahead &= bool(means['wn'] < means['plain'])
    agrees &= all(abs(means[name] - curve[name, at]) <= _CLOSE for name in means)
  text = f'{"; ".join(texts)} ({_setting(folder, runs)})'
  if not is_ahead:
    return Finding(text, CONTRADICTED)
  return Finding(text, REPRODUCED if agrees and epoch == 200 else CONSISTENT)


def rates(results: Path) -> Finding:
  """Compares the ranges of rates with an error of at most 5 points above that of the best rate."""
  errors: dict[str, dict[float, list[float]]] = {}  # variant → rate → % of each seed
  for path in sorted((results / 'cifar-scaled').glob('*/learning_rate=*/seed*/metrics.jsonl')):
    is_finished = path.with_name('summary.json').exists()
    if not (is_finished or path.parents[1].joinpath('logs', f'{path.parts[-2]}.log').exists()):
      continue  # neither finished nor, by its log, diverged
    variant, rate = path.parts[-4], float(path.parts[-3].removeprefix('learning_rate='))
    if variant in ('wn', 'plain'):
      error = at_epoch(read_rows(path), 'test/error', 12)
      percent = np.inf if error is None else 100 * error  # it diverged
      errors.setdefault(variant, {}).setdefault(rate, []).append(percent)
  if len(errors) < 2:
    return Finding('', NOT_RUN)
  text = '; '.join(
    f'`{variant}` ' + ', '.join(f'{numbers(found[r], 1)} at {r:g}' for r in sorted(found))
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


def read_at_rates(folder: Path) -> RunsAtRates:
  """The finished runs of CIFAR-10 below `folder`, those of the largest number of epochs."""
  found: dict[tuple[str, float, str], list[Row]] = {}  # a run may be there twice
  for path in sorted(folder.rglob('seed*/summary.json')):
    config = json.loads(path.read_text())['config']
    key = (
      config['variant']['parameterization'],
      config['optimizer']['learning_rate'],
      path.parts[-2],
    )
    found[key] = read_rows(path.with_name('metrics.jsonl'))
  last = {key: max(row['epoch'] for row in rows) for key, rows in found.items()}
  runs: dict[str, dict[float, list[list[Row]]]] = {}
  for key, rows in found.items():
    if last[key] == max(last.values()):
      runs.setdefault(key[0], {}).setdefault(key[1], []).append(rows)
  return runs


def _at_best(runs: RunsAtRates) -> Runs:
  """The runs of each variant at its learning rate with the lowest error in the end."""

  def error(seeds: Sequence[Sequence[Row]]) -> float:
    rows = [[row['test/error'] for row in rows if 'test/error' in row] for rows in seeds]
    return float(np.mean([errors[-1] for errors in rows]))

  return {name: min(at_rates.values(), key=error) for name, at_rates in runs.items()}


def _rates_of(at_rates: Mapping[float, Any]) -> str:
  return ', '.join(f'{rate:g}' for rate in sorted(at_rates))


def _setting(folder: Path, runs: Runs) -> str:
  """The number of seeds, and whether the hidden units were in bfloat16."""
  seeds = max(map(len, runs.values()))
  text = f'{seeds} seed{"s" if seeds > 1 else ""}'
  if any(config['model']['dtype'] == 'bfloat16' for config in _configs(folder)):
    text += ', hidden units in bfloat16'
  return text


def _configs(folder: Path) -> list[Mapping[str, Any]]:
  paths = sorted(folder.rglob('seed*/summary.json'))
  return [json.loads(path.read_text())['config'] for path in paths]


def _percent(seeds: Sequence[Sequence[Row]], metric: str, epoch: float) -> list[float]:
  """An error in % at an epoch, of each seed."""
  return [100 * at_epoch(rows, metric, epoch) for rows in seeds]


def _training_percent(seeds: Sequence[Sequence[Row]], epoch: int) -> list[float]:
  """The training error in % over an epoch, of each seed: the mean of its equally spaced rows."""
  return [
    100 * float(np.mean([row['train/error'] for row in _rows_of(rows, epoch)])) for rows in seeds
  ]


def _rows_of(rows: Sequence[Row], epoch: int) -> list[Row]:
  """The training rows within an epoch, numbered from 1."""
  return [row for row in rows if 'train/error' in row and epoch - 1 < row['epoch'] <= epoch]
