"""What a report is made of."""

import dataclasses
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.results import Run


@dataclasses.dataclass(frozen=True)
class Table:
  """A table as it is shown: cells are text. `name` is the stem of its files."""

  name: str
  frame: pd.DataFrame
  caption: str


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure, or a PNG or GIF that a run has written; `caption` says what it shows.

  `name` is the stem of its files, with folders below that of the section if need be.
  """

  name: str
  figure: Figure | Path
  caption: str


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report.

  Attributes:
    name: of its directory, such as 'cifar-scaled'.
    title: its heading.
    runs: those that it shows.
    tables: the first one is the result.
    pictures: the first one goes with it.
    data: numbers behind them, by the stem of their CSV file.
  """

  name: str
  title: str
  runs: list[Run]
  tables: list[Table]
  pictures: list[Picture]
  data: dict[str, pd.DataFrame]
