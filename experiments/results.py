"""Reads the runs of any experiment, without JAX.

>>> from experiments import results
>>> metrics = results.load(['runs/cifar'])
>>> metrics.dropna(subset='test/error').groupby('variant')['test/error'].min()
"""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.runtime import settings
from experiments.runtime.errors import UserError, check_links
from experiments.runtime.metrics import read_rows

_FILES = ('config.json', 'summary.json', 'metrics.jsonl')  # any of them marks a run
_DIVERGED = re.compile(r'error: (.+ is (?:nan|-?inf) at step \d+)')  # in the log of a run


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    path: directory of the run.
    config: configuration of the run.
    summary: contents of `summary.json`; None if the run is unfinished.
    metrics: rows of `metrics.jsonl`, with columns step, epoch, seconds and one per metric; NaN
      where a row lacks the metric.
    data: description of the data: `name`, `digest`, `train_images`, `test_images` and `published`
      (split → whether it equals the published files); None for a run of an older version.
    divergence: how a run of a sweep diverged, by its log: 'train/loss is nan at step 120'.
  """

  path: Path
  config: dict[str, Any]
  summary: dict[str, Any] | None
  metrics: pd.DataFrame
  data: dict[str, Any] | None = None
  divergence: str | None = None

  @property
  def is_finished(self) -> bool:
    """Whether the run has a summary."""
    return self.summary is not None

  @property
  def is_unfinished(self) -> bool:
    """Whether the run still runs or was stopped: it has neither a summary nor diverged."""
    return self.summary is None and self.divergence is None

  @property
  def variant(self) -> str:
    """Name of the variant, like 'mnist-iaf-wn'."""
    return settings.variant(self.config)

  @property
  def parameterization(self) -> str:
    """Parameterization, like 'wn'."""
    return self.config['variant']['parameterization']

  @property
  def learning_rate(self) -> float:
    """Base learning rate."""
    return self.config['optimizer']['learning_rate']


def load(paths: Sequence[Path | str] | Path | str) -> pd.DataFrame:
  """The metrics of runs as one table.

  Leaves out unreadable runs, and copies of others, as reports have them, with a message on stderr.

  Args:
    paths: directories that are runs or contain runs at any depth.

  Returns:
    A row for each row of each `metrics.jsonl`, with the columns

      run            str, directory of the run
      experiment, variant, protocol   str
      seed           int
      learning_rate  float
      finished       bool
      step           int, optimization steps (dqn: agent steps)
      epoch          float, passes over the training set (dqn: evaluations)
      seconds        float, training time so far
      train/loss … test/error …       float; NaN where the row lacks the metric

  Raises:
    UserError: no run can be read.
  """
  paths = [paths] if isinstance(paths, Path | str) else paths
  runs, problems = find(paths)
  runs, copies = _without_copies(runs)
  for problem in problems + copies:
    print(f'left out: {problem}', file=sys.stderr)
  if not runs:
    raise UserError(f'no runs in {", ".join(map(str, paths))}.')
  return pd.concat([_with_config(run) for run in runs], ignore_index=True)


def find(paths: Sequence[Path | str]) -> tuple[list[Run], list[str]]:
  """The runs in and below `paths`, each once, and a message for each unreadable one.

  Raises:
    UserError: a path does not exist or contains no runs.
  """
  folders: dict[Path, Path] = {}  # by resolved path
  for path in map(Path, paths):
    if not path.is_dir():
      raise UserError(f'there is no directory {path}.')
    found = {file.parent for name in _FILES for file in path.rglob(name) if file.is_file()}
    if not found:
      raise UserError(f'{path} holds no runs.')
    for folder in sorted(found):
      folders.setdefault(folder.resolve(), folder)
  runs, problems = [], []
  for folder in folders.values():
    try:
      runs.append(read(folder))
    except UserError as error:
      problems.append(str(error))
    except OSError as error:
      problems.append(f'{folder} cannot be read ({error}).')
  return runs, problems


def _without_copies(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
  """Without those that are a copy of another, or of its beginning; and a message for each."""
  originals: dict[str, list[Run]] = {}  # by config
  copies = {}
  for run in sorted(runs, key=_furthest_first):
    others = originals.setdefault(json.dumps(run.config, sort_keys=True), [])
    if original := next((other for other in others if _begins_as(run, other)), None):
      copies[run.path] = f'{run.path} is a copy of {original.path}.'
    else:
      others.append(run)
  return [run for run in runs if run.path not in copies], list(copies.values())


def _furthest_first(run: Run) -> tuple[bool, int, bool]:
  """Sort key: of runs that came as far, first the one with checkpoints, which copies lack."""
  return not run.is_finished, -len(run.metrics), not (run.path / 'checkpoints').exists()


def _begins_as(run: Run, other: Run) -> bool:
  """Whether all rows of a run are the first ones of another, with the same times."""
  rows = run.metrics
  has_columns = len(rows) > 0 and set(rows) <= set(other.metrics)
  return has_columns and rows.equals(other.metrics[list(rows)].head(len(rows)))


def read(path: Path) -> Run:
  """Reads the run in a directory.

  Raises:
    UserError: a file is missing, damaged or not from a run, or a link leads out of the directory.
  """
  check_links(path)
  summary = _read_json(path / 'summary.json')
  config = _read_json(path / 'config.json') if summary is None else summary.get('config')
  if isinstance(config, dict) and settings.is_of_older_format(config):
    raise UserError(f'{path} is a run of an older version, whose format this one does not read.')
  if not _is_config(config):
    name = 'config.json' if summary is None else 'summary.json'
    raise UserError(f'{path}/{name} is missing or is not from a run.')
  data = _read_json(path / 'data.json') if summary is None else summary.get('data')
  if not (data is None or _is_data(data)):
    name = 'data.json' if summary is None else 'summary.json'
    raise UserError(f'{path}/{name} does not describe the data of a run.')
  divergence = _divergence(path) if summary is None else None
  rows = read_rows(path / 'metrics.jsonl')
  if not rows and divergence is None:
    raise UserError(f'{path}/metrics.jsonl has no rows.')
  try:
    metrics = pd.DataFrame(rows, columns=None if rows else ['step', 'epoch', 'seconds'])
    metrics = metrics.astype(float).astype({'step': int})
  except (ValueError, TypeError) as error:
    raise UserError(f'{path}/metrics.jsonl has a value that is not a number ({error}).') from error
  return Run(path, config, summary, metrics, data, divergence)


def read_of(experiment: str, path: Path) -> Run:
  """Reads a run of `experiment`.

  Raises:
    UserError: the run does not exist, belongs to another experiment or cannot be read.
  """
  if not path.is_dir():
    raise UserError(f'there is no directory {path}.')
  run = read(path)
  if run.config['experiment'] != experiment:
    raise UserError(f'{path} is a run of {run.config["experiment"]}, not of {experiment}.')
  return run


def _is_config(value: Any) -> bool:
  """Whether `value` is a config, with names that are safe as parts of paths."""
  if not isinstance(value, dict) or not isinstance(value.get('seed'), int):
    return False
  variant, optimizer = value.get('variant'), value.get('optimizer')
  if not isinstance(variant, dict) or not isinstance(optimizer, dict):
    return False
  if 'parameterization' not in variant:
    return False
  parts = [part for part in variant.values() if part != '']
  names = [value.get('experiment'), value.get('protocol'), *parts]
  rate, epochs = optimizer.get('learning_rate'), value.get('epochs')
  has_numbers = isinstance(rate, int | float) and isinstance(epochs, int)
  return bool(parts) and all(map(settings.is_name, names)) and has_numbers


def _is_data(value: Any) -> bool:
  """Whether `value` describes data; games have only a name and a digest."""
  if not isinstance(value, dict) or not isinstance(value.get('name'), str):
    return False
  types = {'digest': str, 'train_images': int, 'test_images': int, 'published': dict | None}
  return all(isinstance(value[key], kind) for key, kind in types.items() if key in value)


def _divergence(path: Path) -> str | None:
  """The non-finite value that ended a run, from the log of its sweep."""
  try:
    lines = (path.parent / 'logs' / f'{path.name}.log').read_text(errors='replace').splitlines()
  except OSError:
    return None
  found = [match[1] for line in lines[-20:] if (match := _DIVERGED.match(line))]
  return found[-1] if found else None


def _read_json(path: Path) -> dict[str, Any] | None:
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (ValueError, OSError) as error:
    raise UserError(f'{path} is damaged ({error}).') from error
  if not isinstance(value, dict):
    raise UserError(f'{path} is not from a run.')
  return value


def _with_config(run: Run) -> pd.DataFrame:
  columns = {
    'run': str(run.path),
    'experiment': run.config['experiment'],
    'variant': run.variant,
    'protocol': run.config['protocol'],
    'seed': run.config['seed'],
    'learning_rate': float(run.learning_rate),
    'finished': run.is_finished,
  }
  front = pd.DataFrame([columns] * len(run.metrics))
  return pd.concat([front, run.metrics], axis=1)
