"""Finds the pictures that runs have written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.results import Run
from scripts.report.section import Picture


def find(runs: Sequence[Run], names: Mapping[str, str]) -> list[Picture]:
  """The pictures of the first run of each variant; `names` maps PNG or GIF files to captions."""
  firsts: dict[str, Run] = {}
  for run in runs:
    firsts.setdefault(run.variant, run)
  return [
    Picture(
      f'{variant}/seed{run.config["seed"]}/{Path(name).stem}',
      run.path / name,
      f'`{variant}`, seed {run.config["seed"]}: {what}.',
    )
    for variant, run in firsts.items()
    for name, what in names.items()
    if (run.path / name).exists()
  ]
