"""Sorts runs into sections of a report, one for each experiment and protocol."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.results import Run
from scripts.report import cifar, dqn, draw, vae
from scripts.report.parts import Section

# What may differ between the runs of a section: what is compared, and whether norms were watched.
_FREE = frozenset(
  {'variant', 'game', 'param', 'posterior', 'attention', 'seed', 'learning_rate', 'diagnostics'}
)
_ROOMS = {'cifar': cifar, 'dqn': dqn, 'draw': draw, 'vae': vae}
_MAKERS = {name: room.section for name, room in _ROOMS.items()}
_NEEDED = {name: room.KEYS for name, room in _ROOMS.items()}


def make(
  runs: Sequence[Run], *, steps: Path | None = None, note: str = ''
) -> tuple[list[Section], list[str]]:
  """The sections of a report, and a line for each run that is in none of them.

  Args:
    runs: finished or not, of any experiments.
    steps: file of step times, of `python -m scripts.benchmark cifar --json`.
    note: sentence for the captions.

  Raises:
    UserError: `steps` cannot be used.
  """
  problems, usable = [], []
  for run in runs:
    if not run.is_finished:
      problems.append(f'{run.path} is not finished (there is no summary.json).')
    elif run.config['experiment'] not in _MAKERS:
      problems.append(f'{run.path} is of an unknown experiment {run.config["experiment"]!r}.')
    elif missing := _NEEDED[run.config['experiment']] - run.config.keys():
      problems.append(f'{run.path}: its config lacks {", ".join(sorted(missing))}.')
    else:
      usable.append(run)
  made: list[Section] = []
  firsts: dict[str, list[Run]] = {}  # the first run of each section of an experiment and protocol
  for group in split_by_config(usable):
    config = group[0].config
    base = name = title = f'{config["experiment"]}-{config.get("protocol", "paper")}'
    if before := firsts.setdefault(base, []):
      name = f'{base}-{len(before) + 1}'
      changes = differences(before[0], group[0]) or 'another config'
      title = f'{base} with {changes}'
    before.append(group[0])
    section, more = _MAKERS[config['experiment']](group, name, title, steps, note)
    problems += more
    if section:
      made.append(section)
  return made, problems


def split_by_config(runs: Sequence[Run]) -> list[list[Run]]:
  """Runs of equal config but for what `_FREE` names, in the order given."""
  groups: list[list[Run]] = []
  for run in runs:
    for group in groups:
      if not any(differences(other, run) for other in group):
        group.append(run)
        break
    else:
      groups.append([run])
  return groups


def differences(first: Run, second: Run) -> str:
  """'width=96, epochs=200': what the config of the second run has that the first has otherwise.

  A key that only one of them has does not count: it came into the config after the other run.
  """
  shared = first.config.keys() & second.config.keys() - _FREE
  return ', '.join(
    f'{key}={json.dumps(second.config[key])}'
    for key in second.config
    if key in shared and first.config[key] != second.config[key]
  )
