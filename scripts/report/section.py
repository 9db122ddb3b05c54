"""The sections of a report, with their tables and pictures."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report.evaluations import Comparison

UNFINISHED = 'unfinished'  # the name of the table of unfinished runs


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text cells. `name` is the stem of its files."""

  name: str
  frame: pd.DataFrame
  caption: str


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure, or a PNG or GIF that a run has written.

  `name` is the stem of its files, relative to the directory of the section.
  """

  name: str
  figure: Figure | Path
  caption: str


@dataclasses.dataclass(frozen=True)
class Content:
  """What an experiment contributes to its section.

  Attributes:
    heading: names the paper's figures and the data, such as 'Figure 3: VAE on mnist'.
    value: what is compared, for the captions about learning rates.
    pictures: the first one is the result; its caption says what was run.
    tables: the first one goes with the first picture.
    data: rows of evaluations, by the stem of their CSV file.
    run_pictures: files that a run writes → what they show.
  """

  heading: str
  comparison: Comparison
  value: str
  pictures: list[Picture]
  tables: list[Table]
  data: dict[str, pd.DataFrame]
  run_pictures: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Section:
  """One section of the report.

  Attributes:
    name: of its directory, such as 'cifar-scaled'.
    title: names the paper's figures, the data and the protocol.
    pictures: the first one is the result.
    tables: the first one goes with the first picture.
    data: the numbers behind them, by the stem of their CSV file.
    source: a sentence about the training data.
  """

  name: str
  title: str
  runs: list[Run]
  pictures: list[Picture]
  tables: list[Table]
  data: dict[str, pd.DataFrame]
  source: str


def caption(*sentences: str) -> str:
  """Joins the sentences that aren't empty."""
  return ' '.join(filter(None, sentences))
