"""What the paper shows: a CSV file for each of its figures, with its source in the first lines."""

import functools
from pathlib import Path

import pandas as pd


@functools.cache
def figure(number: int) -> pd.DataFrame:
  """The values of a figure of the proceedings version, 1 to 6; do not change them.

  Returns:
    A row for each point: `series`, the variant; `x`, epochs or, in 5 and 6, millions of frames;
    `y`, its value; `error`, half the length of its bar, NaN where it has none.
  """
  frame = pd.read_csv(Path(__file__).parent / f'figure{number}.csv', comment='#')
  return frame.reindex(columns=['series', 'x', 'y', 'error'])


def last(number: int) -> dict[str, float]:
  """Variant → the value at the end of its curve, or in the table that a figure is."""
  return figure(number).groupby('series', sort=False)['y'].last().to_dict()
