"""The paper's values: a CSV file per figure, which states its source in its first lines."""

import functools
from pathlib import Path

import pandas as pd


@functools.cache
def figure(number: int) -> pd.DataFrame:
  """The values of figure 1 to 6 of the proceedings version. Cached; don't modify the result.

  Returns:
    A row per point: `series`, the variant; `x` in epochs or, in 5 and 6, millions of frames; `y`;
    and `error`, half the length of the error bar or NaN.
  """
  frame = pd.read_csv(Path(__file__).parent / f'figure{number}.csv', comment='#')
  return frame.reindex(columns=['series', 'x', 'y', 'error'])


def last(number: int) -> dict[str, float]:
  """Variant → the last value of its curve, or its value in a table."""
  return figure(number).groupby('series', sort=False)['y'].last().to_dict()
