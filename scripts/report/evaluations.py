"""Tables of evaluations, and the best learning rate of each variant."""

import collections
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.results import Run
from experiments.runtime.errors import UserError
from scripts.report import selection
from scripts.report.selection import Usable

# Columns that identify the run of a row.
_COLUMNS = ('variant', 'label', 'parameterization', 'game', 'seed', 'learning_rate')


class OutOfDate(Exception):
  """A measurement is of an earlier state of its run."""


@dataclasses.dataclass(frozen=True)
class Measure:
  """A metric that runs are compared by.

  Attributes:
    metric: name in the runs' metrics.
    scale: factor, such as 100 for per cent or −1 for log p from −log p.
  """

  metric: str
  label: str
  scale: float = 1.0
  lower_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Runs and their results.

  Attributes:
    rows: evaluations of all finished runs.
    values: a row for each finished run, with the value to compare.
    diverged: a row for each diverged run, without a value.
    unfinished: a row for each unfinished run, without a value.
    best: variant → the learning rate with the best mean value, or the one of `at_rates`.
    runs: the finished runs at these rates.
    chosen: their `rows`.
  """

  measure: Measure
  rows: pd.DataFrame
  values: pd.DataFrame
  diverged: pd.DataFrame
  unfinished: pd.DataFrame
  best: dict[str, float]
  runs: list[Run]
  chosen: pd.DataFrame

  @property
  def tried(self) -> int:
    """The largest number of learning rates tried for a variant."""
    both = pd.concat([self.values, self.diverged])
    return int(both.groupby('variant')['learning_rate'].nunique().max())

  def rates(self, variant: str) -> list[float]:
    """The learning rates tried for a variant."""
    return _rates(pd.concat([self.values, self.diverged]), variant)

  def unfinished_rates(self, variant: str) -> list[float]:
    """Those at which all of its runs are unfinished."""
    return [r for r in _rates(self.unfinished, variant) if r not in self.rates(variant)]


def last_epoch(rows: pd.DataFrame) -> pd.DataFrame:
  """The rows of the last epoch of each variant."""
  return rows[rows['epoch'] == rows.groupby('variant')['epoch'].transform('max')]


def compare(
  usable: Usable,
  measure: Measure,
  *,
  value_of: Callable[[pd.DataFrame], pd.DataFrame] = last_epoch,
) -> Comparison:
  """Compares runs, at least one of them finished, by the row of each that `value_of` selects."""
  rows = evaluations(usable.finished, measure, usable.step_seconds)
  values = value_of(rows)
  diverged, unfinished = _without_values(usable.diverged), _without_values(usable.unfinished)
  best = best_rates(values, diverged, lower_is_better=measure.lower_is_better)
  return Comparison(measure, rows, values, diverged, unfinished, **_chosen(usable, rows, best))


def at_rates(comparison: Comparison, usable: Usable, rates: Mapping[str, float]) -> Comparison:
  """Chooses the runs of each variant at its rate in `rates`, where it has any."""
  known = comparison.values.groupby('variant')['learning_rate'].unique()
  best = {
    variant: rates[variant] if rates.get(variant) in known[variant] else rate
    for variant, rate in comparison.best.items()
  }
  return dataclasses.replace(comparison, **_chosen(usable, comparison.rows, best))


def best_rates(
  values: pd.DataFrame, diverged: pd.DataFrame, *, lower_is_better: bool
) -> dict[str, float]:
  """Variant → the learning rate with the best mean value.

  Rates at which a run diverged are chosen only if there are no others.
  """
  bad = set(zip(diverged['variant'], diverged['learning_rate']))
  best = {}
  for variant, group in values.groupby('variant', sort=False):
    means = group.groupby('learning_rate')['value'].mean()
    stable = means[[(variant, rate) not in bad for rate in means.index]]
    means = stable if len(stable) else means
    best[variant] = means.idxmin() if lower_is_better else means.idxmax()
  return best


def evaluations(
  runs: Sequence[Run], measure: Measure, step_seconds: Mapping[str, float] | None = None
) -> pd.DataFrame:
  """A row for each evaluation of finished runs: run, epoch, updates, value and minutes.

  With `step_seconds` (variant → seconds), minutes are computed from the steps; without, they are
  the time that the runs took.
  """
  frames = []
  for run in runs:
    rows = run.metrics.dropna(subset=measure.metric)
    seconds = rows['step'] * step_seconds[run.variant] if step_seconds else rows['seconds']
    columns = {
      'epoch': rows['epoch'].astype(int),
      'updates': rows['step'],
      'value': measure.scale * rows[measure.metric],
      'minutes': seconds / 60,
    }
    frames.append(pd.DataFrame(columns).assign(**_of(run)))
  return pd.concat(frames, ignore_index=True)


def training_means(runs: Sequence[Run], measure: Measure) -> pd.DataFrame:
  """The mean of a training metric over each epoch: a row per run and epoch.

  Rows of metrics are means over the steps since the previous row, and are weighted by them.
  """
  frames = []
  for run in runs:
    rows = run.metrics.dropna(subset=measure.metric).sort_values('step')
    epoch = np.ceil(rows['epoch'] - 1e-5).astype(int)
    steps = rows['step'].diff().fillna(rows['step'])
    sums = (measure.scale * rows[measure.metric] * steps).groupby(epoch).sum()
    means = sums / steps.groupby(epoch).sum()
    frames.append(means.rename('value').reset_index().assign(**_of(run)))
  return pd.concat(frames, ignore_index=True)


def afterwards(
  runs: Sequence[Run], name: str, value: Callable[[dict[str, Any], Run], float]
) -> tuple[int, dict[str, list[float]]] | None:
  """Reads later measurements of finished runs from their `NAME-N.json` files.

  Leaves out those of an earlier state of the run, for which `value` raises `OutOfDate`, with a
  message on stderr.

  Returns:
    The N that most runs have (the largest if tied), and variant → values, each `value(content of a
    file, its run)`; None if there are no files.

  Raises:
    UserError: a file is damaged.
  """
  values: dict[int, dict[str, list[float]]] = collections.defaultdict(dict)
  for run in runs:
    for path in run.path.glob(f'{name}-*.json'):
      if (number := path.stem.removeprefix(f'{name}-')).isdecimal():
        try:
          measured = float(value(json.loads(path.read_text()), run))
        except OutOfDate as error:
          print(f'left out: {path} {error}', file=sys.stderr)
          continue
        except (ValueError, KeyError, TypeError) as error:
          raise UserError(f'{path} is damaged ({error}); restore or remove it.') from error
        values[int(number)].setdefault(run.variant, []).append(measured)
  if not values:
    return None
  number = max(values, key=lambda n: (sum(map(len, values[n].values())), n))
  return number, values[number]


def with_mean_minutes(rows: pd.DataFrame) -> pd.DataFrame:
  """Averages minutes over seeds, as a curve needs one time per epoch."""
  keys = ['variant', 'learning_rate', 'epoch']
  return rows.assign(minutes=rows.groupby(keys)['minutes'].transform('mean'))


def _chosen(usable: Usable, rows: pd.DataFrame, best: dict[str, float]) -> dict[str, Any]:
  """What depends on the chosen rates in a `Comparison`."""
  runs = [run for run in usable.finished if run.learning_rate == best[run.variant]]
  chosen = rows[rows['learning_rate'] == rows['variant'].map(best)]
  return {'best': best, 'runs': runs, 'chosen': chosen}


def _without_values(runs: Sequence[Run]) -> pd.DataFrame:
  frame = pd.DataFrame([_of(run) for run in runs], columns=list(_COLUMNS))
  return frame.astype({'learning_rate': float})


def _rates(rows: pd.DataFrame, variant: str) -> list[float]:
  return sorted(rows.loc[rows['variant'] == variant, 'learning_rate'].unique())


def _of(run: Run) -> dict[str, Any]:
  return {
    'variant': run.variant,
    'label': selection.label(run),
    'parameterization': run.parameterization,
    'game': run.config['variant'].get('game', ''),
    'seed': run.config['seed'],
    'learning_rate': run.learning_rate,
  }
