"""What the recorded results say about the claims on CIFAR-10 (§2.1, §5.1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import cifar
from experiments.runtime.metrics import Row
from scripts.report import paper, recorded
from scripts.report.cifar import TEST
from scripts.report.findings import (
  CONSISTENT,
  CONTRADICTED,
  NOT_RUN,
  NOT_SEEN,
  REPRODUCED,
  TOO_EARLY,
  Criterion,
  Finding,
  compare,
  count_of_seeds,
  named,
  numbers,
  read_pair,
)
from scripts.report.recorded import Recorded, Runs, RunsAtRates, last_epoch

_ERROR = TEST.metric
_CRITERION = Criterion(TEST, '% test error', decimals=2, difference=0.5)
_PAIR = ('wn', 'plain')
_CLOSE = 0.5  # points of an error within which it agrees with the paper's


def lowest_error(results: Path) -> Finding:
  """Reproduced: all close to the paper after 200 epochs, and `wn_mean_bn` the best.

  Each at the best of the learning rates that were tried.
  """
  runs = _CRITERION.best(_read(results))
  if not (epoch := last_epoch(runs, _ERROR)):
    return Finding('', NOT_RUN)
  values = {name: _percent(runs[name], epoch) for name in runs}
  text = f'{named(values, 2)} % after {epoch} epochs ({_setting(runs)})'
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
  at_rates = _read(results)
  best = _CRITERION.best(at_rates)
  runs = {name: best[name] for name in _PAIR if name in best}
  if len(runs) < 2 or last_epoch(runs, _ERROR) < 200:
    return Finding('', NOT_RUN)
  values = {name: _percent(runs[name], 200) for name in runs}
  tried = '; '.join(f'`{name}` {_rates_of(at_rates[name])}' for name in runs)
  text = f'{named(values, 2)} % after 200 epochs (the best of the rates {tried}; '
  text += f'{_setting(runs)})'
  if released := at_rates.get('plain_released'):
    errors = _percent(best['plain_released'], 200)
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
  at_rates = _read(results)
  runs = {name: at_rates.get(name, {}).get(cifar.RATE_OF[name]) for name in _PAIR}
  runs = {name: seeds for name, seeds in runs.items() if seeds}
  epoch = last_epoch(runs, _ERROR)
  if len(runs) < 2 or epoch < 100:
    pair = read_pair(results / 'cifar-fifty', _CRITERION)
    return compare(pair, _CRITERION, '{epoch} epochs at a third of the width')
  curve = paper.figure(1).set_index(['series', 'x'])['y']
  texts, is_ahead, agrees = [], True, True
  for at in (50, 100):
    values = {name: _training_percent(runs[name], at) for name in runs}
    texts.append(f'{named(values, 1)} % after {at} epochs')
    means = {name: np.mean(errors) for name, errors in values.items()}
    is_ahead &= bool(means['wn'] < means['plain'])
    agrees &= all(abs(means[name] - curve[name, at]) <= _CLOSE for name in means)
  text = f'{"; ".join(texts)} ({_setting(runs)})'
  if not is_ahead:
    return Finding(text, CONTRADICTED)
  return Finding(text, REPRODUCED if agrees and epoch == 200 else CONSISTENT)


def rates(results: Path) -> Finding:
  """Compares the ranges of rates with an error of at most 5 points above that of the best rate."""
  runs = recorded.read(results / 'cifar-scaled', diverged=True)
  errors = {
    name: {rate: [_at_twelve(run) for run in seeds] for rate, seeds in runs[name].items()}
    for name in _PAIR
    if name in runs
  }
  if len(errors) < 2:
    return Finding('', NOT_RUN)
  text = '; '.join(
    f'`{variant}` ' + ', '.join(f'{numbers(found[r], 1)} at {r:g}' for r in sorted(found))
    for variant, found in errors.items()
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


def _at_twelve(run: Recorded) -> float:
  """The error in % after twelve epochs; infinite if the run diverged before."""
  error = run.at(_ERROR, 12)
  return np.inf if error is None else 100 * error


def _read(results: Path) -> RunsAtRates:
  """The finished runs at the paper's protocol, those of the largest number of epochs."""
  return recorded.longest(recorded.read(results / 'cifar-paper'), _ERROR)


def _rates_of(at_rates: Mapping[float, Any]) -> str:
  return ', '.join(f'{rate:g}' for rate in sorted(at_rates))


def _setting(runs: Runs) -> str:
  """The number of seeds, and whether hidden units were in bfloat16."""
  is_bfloat16 = any(run.config['model']['dtype'] == 'bfloat16' for run in recorded.flat(runs))
  return count_of_seeds(runs) + (', hidden units in bfloat16' if is_bfloat16 else '')


def _percent(runs: Sequence[Recorded], epoch: float) -> list[float]:
  """The test error in % at an epoch, of each seed."""
  return [100 * run.at(_ERROR, epoch) for run in runs]


def _training_percent(runs: Sequence[Recorded], epoch: int) -> list[float]:
  """The training error in % over an epoch, of each seed: the mean of its equally spaced rows."""
  return [
    100 * float(np.mean([row['train/error'] for row in _rows_of(run.rows, epoch)])) for run in runs
  ]


def _rows_of(rows: Sequence[Row], epoch: int) -> list[Row]:
  """The training rows within an epoch, numbered from 1."""
  return [row for row in rows if 'train/error' in row and epoch - 1 < row['epoch'] <= epoch]
