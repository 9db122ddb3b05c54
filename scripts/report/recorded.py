"""The runs in results/, as the claims read them: also those of an older format."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtime import settings
from experiments.runtime.errors import UserError
from experiments.runtime.metrics import Row, read_rows


@dataclasses.dataclass(frozen=True)
class Recorded:
  """A run: its rows and its config."""

  rows: Sequence[Row]
  config: Mapping[str, Any]

  @property
  def is_of_older_format(self) -> bool:
    """Whether its config is from before keys were grouped in sections."""
    return settings.is_of_older_format(self.config)

  @property
  def variant(self) -> str:
    """Name of the variant, like 'mnist-iaf-wn'."""
    return self.config['variant'] if self.is_of_older_format else settings.variant(self.config)

  @property
  def learning_rate(self) -> float:
    """Base learning rate."""
    optimizer = self.config if self.is_of_older_format else self.config['optimizer']
    return optimizer['learning_rate']

  def at(self, metric: str, epoch: float) -> float | None:
    """The value of a metric in the row of an epoch."""
    values = [row[metric] for row in self.rows if metric in row and row['epoch'] == epoch]
    return values[-1] if values else None

  def last_epoch(self, metric: str) -> int:
    """The last epoch that has a metric; 0 if none has."""
    return int(max((row['epoch'] for row in self.rows if metric in row), default=0))


Runs = Mapping[str, Sequence[Recorded]]  # variant → its seeds
RunsAtRates = Mapping[str, Mapping[float, Sequence[Recorded]]]  # variant → learning rate → seeds


def read(folder: Path, *, diverged: bool = False) -> RunsAtRates:
  """The finished runs below `folder`, each once: of two copies the one that came further.

  With `diverged`, also those that, by their log, diverged.

  Raises:
    UserError: there are two runs of the same variant, rate and seed with different configs.
  """
  found: dict[tuple[str, float, str], Recorded] = {}
  for path in sorted(folder.rglob('seed*')):
    summary, config = path / 'summary.json', path / 'config.json'
    has_log = (path.parent / 'logs' / f'{path.name}.log').exists()
    if summary.exists():
      content = json.loads(summary.read_text())['config']
    elif diverged and has_log and config.exists():
      content = json.loads(config.read_text())
    else:
      continue
    run = Recorded(read_rows(path / 'metrics.jsonl'), content)
    key = (run.variant, run.learning_rate, path.name)
    other = found.get(key)
    if other and _protocol(other) != _protocol(run):
      raise UserError(
        f'{folder} has two runs of {run.variant}, {run.learning_rate:g}, {path.name} with '
        'different configs.'
      )
    if not other or _length(other) < _length(run):
      found[key] = run
  runs: dict[str, dict[float, list[Recorded]]] = {}
  for (variant, rate, _), run in sorted(found.items(), key=lambda item: item[0]):
    runs.setdefault(variant, {}).setdefault(rate, []).append(run)
  return runs


def at_best(
  runs: RunsAtRates, value_of: Callable[[Recorded], float], *, higher_is_better: bool
) -> Runs:
  """The runs of each variant at its learning rate with the best mean value."""
  best = max if higher_is_better else min
  return {
    name: best(at_rates.values(), key=lambda seeds: float(np.mean([*map(value_of, seeds)])))
    for name, at_rates in runs.items()
  }


def longest(runs: RunsAtRates, metric: str) -> RunsAtRates:
  """Those with the most evaluated epochs."""
  most = max((run.last_epoch(metric) for rates in runs.values() for run in flat(rates)), default=0)
  kept: dict[str, dict[float, list[Recorded]]] = {}
  for variant, at_rates in runs.items():
    for rate, seeds in at_rates.items():
      if whole := [run for run in seeds if run.last_epoch(metric) == most]:
        kept.setdefault(variant, {})[rate] = whole
  return kept


def flat(runs: Mapping[Any, Sequence[Recorded]]) -> list[Recorded]:
  """All runs as one list."""
  return [run for seeds in runs.values() for run in seeds]


def last_epoch(runs: Runs, metric: str) -> int:
  """The last epoch that all runs have evaluated; 0 if there are none."""
  return min((run.last_epoch(metric) for run in flat(runs)), default=0)


def _protocol(run: Recorded) -> dict[str, Any]:
  """The flat config without what two copies of a run may differ in."""
  flat = settings.flatten(run.config)
  return {key: flat[key] for key in flat if not settings.is_among(key, ('run', 'epochs'))}


def _length(run: Recorded) -> float:
  return max((row['epoch'] for row in run.rows), default=0)
