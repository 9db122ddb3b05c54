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
    title: its heading, which names the figures of the paper.
    runs: those that it shows.
    pictures: the first one is the result.
    tables: the first one goes with it.
    data: numbers behind them, by the stem of their CSV file.
    source: a sentence about what the runs were trained on.
  """

  name: str
  title: str
  runs: list[Run]
  pictures: list[Picture]
  tables: list[Table]
  data: dict[str, pd.DataFrame]
  source: str


def caption(*sentences: str) -> str:
  """At most three: what was run, how it differs from the paper, what it shows."""
  return ' '.join(sentence for sentence in sentences if sentence)
