"""Sorts runs into the sections of a report: one per experiment, protocol and data."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.results import Run
from experiments.runtime import settings
from scripts.report import (
  cifar,
  diagnostics,
  dqn,
  draw,
  pictures_of_runs,
  protocol,
  provenance,
  rates,
  selection,
  step_times,
  tables,
  vae,
)
from scripts.report.section import Section, caption
from scripts.report.selection import Usable

# Keys that may differ within a section: those compared, and those without effect on results.
_FREE = (
  'seed',
  'variant.game',
  'variant.posterior',
  'variant.option',
  'variant.parameterization',
  'optimizer.learning_rate',
  'run',
)
# Experiments compared by their best evaluation; longer runs have more evaluations.
_BEST_OF_ALL = ('dqn',)
_ROOMS = {'cifar': cifar, 'dqn': dqn, 'draw': draw, 'vae': vae}


def make(
  runs: Sequence[Run], *, steps: Path | None = None, note: str = ''
) -> tuple[list[Section], list[str]]:
  """Makes the sections of a report.

  Args:
    runs: of any experiments, finished or not.
    steps: file of `python -m scripts.benchmark cifar --json`, for CIFAR-10.
    note: sentence for the main captions.

  Returns:
    The sections, and a message for each run that is left out of the figures.

  Raises:
    UserError: `steps` cannot be used.
  """
  problems, usable = [], []
  for run in runs:
    if problem := _problem(run):
      problems.append(problem)
    else:
      usable.append(run)
  made: list[Section] = []
  earlier: dict[str, list[Run]] = {}  # experiment and protocol → runs of their sections
  counts: Counter[str] = Counter()  # experiment and protocol → number of sections
  for group in split(usable):
    config = group[0].config
    metrics = [measure.metric for measure in _ROOMS[config['experiment']].measures(config)]
    shown = selection.select(group, metrics)
    problems += shown.problems
    if not shown.finished:
      continue
    base = name = f'{config["experiment"]}-{config["protocol"]}'
    changes = ''
    counts[base] += 1
    if counts[base] > 1:
      name = f'{base}-{counts[base]}'
      changes = next(filter(None, (differences(other, group[0]) for other in earlier[base])), '')
      changes = f', with {changes}'
    earlier.setdefault(base, []).extend(group)
    if steps and config['experiment'] == 'cifar':
      step_seconds = step_times.read(steps, shown.finished)
      shown = dataclasses.replace(shown, step_seconds=step_seconds)
    made.append(_section(shown, name, changes, note))
  return made, problems


def _section(usable: Usable, name: str, changes: str, note: str) -> Section:
  """Adds what all sections have to the content of the experiment.

  `changes` ends the title: how the runs differ from those of an earlier section.
  """
  runs, config = usable.finished, usable.finished[0].config
  content = _ROOMS[config['experiment']].content(usable)
  comparison, difference = content.comparison, protocol.about(runs)
  first, *others = content.pictures
  text = caption(first.caption, difference, note)
  pictures = [dataclasses.replace(first, caption=text), *others]
  made = [tables.with_diverged(content.tables[0], comparison), *content.tables[1:]]
  if comparison.tried > 1:
    pictures.append(rates.picture(comparison, content.value, difference))
    made.insert(1, rates.table(comparison, content.value))
  if usable.unfinished:
    made.append(tables.unfinished(usable.unfinished, comparison.measure))
  pictures += pictures_of_runs.find(comparison.runs, content.run_pictures)
  pictures += diagnostics.pictures(comparison.runs)
  return Section(
    name=name,
    title=f'{content.heading}, protocol {config["protocol"]}{changes}',
    runs=[*runs, *usable.diverged, *usable.unfinished],
    pictures=pictures,
    tables=made,
    data={stem: tables.by_run(rows) for stem, rows in content.data.items()},
    source=provenance.sentence(runs),
  )


def _problem(run: Run) -> str | None:
  """Why a run is left out; None if it isn't."""
  if run.data is None and run.is_unfinished:
    return f'{run.path} {selection.NOT_FINISHED}.'
  if (room := _ROOMS.get(run.config['experiment'])) is None:
    return f'{run.path} is a run of an unknown experiment {run.config["experiment"]!r}.'
  if run.data is None:
    return f'{run.path} is a run of an older version, which did not record its data.'
  if missing := room.KEYS - settings.flatten(run.config).keys():
    return f'{run.path}: its config lacks {", ".join(sorted(missing))}.'
  return None


def split(runs: Sequence[Run]) -> list[list[Run]]:
  """Groups runs on the same data whose configs differ only in `_FREE` keys; keeps their order."""
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
  """'model.width=96, epochs=200': values of the second run that differ from the first.

  Ignores keys that only one of them has, as the key is newer than the other run.
  """
  old = settings.effective(first.config, settings.flatten(second.config))
  new = settings.effective(second.config, settings.flatten(first.config))
  free, experiment = _FREE, second.config['experiment']
  is_comparable = experiment not in settings.SCHEDULES and experiment not in _BEST_OF_ALL
  if is_comparable and first.variant != second.variant:
    free += ('epochs',)  # an epoch is the same in a shorter run
  changes = [
    f'{key}={json.dumps(value)}'
    for key, value in new.items()
    if key in old and old[key] != value and not settings.is_among(key, free)
  ]
  if data := _other_data(first, second):
    changes.append(data)
  return ', '.join(changes)


def _other_data(first: Run, second: Run) -> str:
  """How the data of the second run differ; two games aren't compared."""
  old, new = first.data, second.data
  games = [run.config['variant'].get('game') for run in (first, second)]
  if games[0] != games[1]:
    return ''
  if old['name'] != new['name']:
    return f'data {new["name"]}'
  if old.get('digest') != new.get('digest'):
    return f'data of digest {new.get("digest", "")[:12]}'
  return ''
