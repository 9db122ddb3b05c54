"""Values of several seeds: as a text, and as an interval for figures.

Three or more seeds are summarized by their mean and its 95 % confidence interval. Fewer have no
interval worth the name, so each is shown.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

_FEWEST = 3


def over_seeds(values: Sequence[float] | pd.Series, decimals: int = 2) -> str:
  """'7.10, 7.30', or '7.20 ± 0.25': mean and 95 % interval of three or more; '–' for none."""
  if not len(values):
    return '–'
  if len(values) < _FEWEST:
    return ', '.join(f'{value:.{decimals}f}' for value in values)
  return f'{np.mean(values):.{decimals}f} ± {_half(values):.{decimals}f}'


def about(rows: pd.DataFrame, shape: str = '') -> str:
  """How a table shows the seeds of `rows`, or a figure with a `shape` such as 'band'."""
  most = rows.groupby('variant')['seed'].nunique().max()
  if most == 1:
    return 'one seed each'
  if most < _FEWEST:
    return f'mean of the seeds, with their range as a {shape}' if shape else 'each seed'
  return f'mean over seeds {f"with a {shape} for the" if shape else "±"} 95 % interval'


def bounds(values: pd.Series) -> tuple[float, float]:
  """The ends of what a figure shows around the mean: the 95 % interval, or each of two values."""
  if len(values) < _FEWEST:
    return values.min(), values.max()
  return values.mean() - _half(values), values.mean() + _half(values)


def _half(values: Sequence[float] | pd.Series) -> float:
  return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
