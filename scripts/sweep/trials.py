"""The trials of a sweep: loading, filtering and progress."""

import ast
import collections
import dataclasses
import importlib.util
import json
import os
import re
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from ml_collections import config_dict

from configs import spec as spec_lib
from experiments.runtime import metrics as metrics_lib
from experiments.runtime import settings
from experiments.runtime import workdir as workdir_lib
from experiments.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a sweep.

  Attributes:
    name: unique in the sweep; also the name of its directory.
    log: file to which output is appended.
    command: starts or resumes the run.
  """

  name: str
  config: config_dict.FrozenConfigDict
  workdir: Path
  log: Path
  command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Progress:
  """Fraction of a trial's epochs, from 0 to 1, and metrics of its latest evaluation."""

  fraction: float
  metrics: dict[str, float]


def load(
  sweep: str,
  runs: Path,
  data_dir: str | None = None,
  texts: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Path, list[Trial]]:
  """Loads a sweep.

  Args:
    sweep: a config file and one of its SWEEPS, such as 'configs/cifar.py:figure2'.
    runs: directory of all runs.
    data_dir: passed to every trial.
    texts: values for every trial by config key, as on a command line.

  Returns:
    The directory of the sweep, and its trials as listed.

  Raises:
    UserError: the sweep does not exist, or one of its trials is invalid.
  """
  path, _, name = sweep.partition(':')
  module = _import(path)
  sweeps = getattr(module, 'SWEEPS', {})
  try:
    spec_lib.choose('sweep', name, list(sweeps))
  except ValueError as error:
    raise UserError(f'{path}: {error}') from error
  found: list[Trial] = []
  for number, entry in enumerate(sweeps[name], start=1):
    where = f'{path}:{name}, trial {number}'
    try:
      spec, overrides = entry
      keys = overrides.keys()
    except (AttributeError, TypeError, ValueError) as error:
      raise UserError(f'{where}: write (SPEC, {{KEY: VALUE, ...}}).') from error
    if both := keys & texts.keys():
      raise UserError(f'--config.{min(both)}: the sweep sets it; choose trials by --filter.')
    config = _config(module, spec, overrides, texts, where)
    directory = Path(os.path.expanduser(runs)) / config.experiment / name
    found.append(_trial(path, spec, overrides, texts, config, directory, data_dir))
  if not found:
    raise UserError(f'{sweep} has no trials.')
  _check_unique(sweep, found)
  return directory, found


def _check_unique(sweep: str, found: Sequence[Trial]) -> None:
  """Raises a `UserError` if two trials have one name, or are the same run by different names."""
  names: set[str] = set()
  name_of: dict[str, str] = {}  # by config
  for trial in found:
    if trial.name in names:
      raise UserError(f'{sweep} lists {trial.name} more than once.')
    names.add(trial.name)
    if (other := name_of.setdefault(trial.config.to_json(), trial.name)) != trial.name:
      raise UserError(f'{sweep}: {other} and {trial.name} are the same run.')


def select(trials: Sequence[Trial], filters: Sequence[str]) -> list[Trial]:
  """Selects the trials that have every filter's key with one of its values: 'KEY=VALUE[,VALUE]'.

  Raises:
    UserError: a filter is invalid, or no trial matches.
  """
  left = list(trials)
  for text in filters:
    key, separator, values = text.partition('=')
    if not separator:
      raise UserError(f'--filter {text}: write KEY=VALUE or KEY=VALUE,VALUE.')
    of_trials = {trial.name: values_of(trial) for trial in trials}
    value_of = {name: _text(of[key]) for name, of in of_trials.items() if key in of}
    if not value_of:
      raise UserError(f'--filter {text}: the config has no key {key!r}.')
    there = list(dict.fromkeys(value_of.values()))
    wanted = values.split(',')
    if unknown := [value for value in wanted if value not in there]:
      raise UserError(
        f'--filter {text}: no trial has {key}={unknown[0]}; it is one of {", ".join(there)}.'
      )
    left = [trial for trial in left if value_of.get(trial.name) in wanted]
  if not left:
    raise UserError(f'--filter {" --filter ".join(filters)} leaves no trial.')
  return left


def values_of(trial: Trial) -> dict[str, Any]:
  """The values that filters can use, by config key, such as 'optimizer.learning_rate'.

  A key may omit its section if no other section has it; 'variant' is the name of the variant.
  """
  config = json.loads(trial.config.to_json())
  flat = settings.flatten(config)
  last = collections.Counter(key.split('.')[-1] for key in flat)
  short = {key.split('.')[-1]: value for key, value in flat.items() if '.' in key}
  unique = {key: value for key, value in short.items() if last[key] == 1}
  return {**unique, **flat, 'variant': settings.variant(config)}


def check(trial: Trial) -> None:
  """Checks that the directory of a trial is free or contains this trial.

  Raises:
    UserError: it contains something else.
  """
  workdir_lib.check_workdir(trial.workdir, trial.config)


def is_finished(trial: Trial) -> bool:
  """Whether the trial has finished; False if it was interrupted."""
  return workdir_lib.is_finished(trial.workdir, trial.config)


def progress(trial: Trial) -> Progress:
  """Reads the progress of a trial from its metrics."""
  fraction, metrics = 0.0, {}
  try:
    with (trial.workdir / 'metrics.jsonl').open(errors='replace') as file:
      for line in deque(file, maxlen=200):
        row = json.loads(line)
        fraction = row['epoch'] / trial.config.epochs
        shown = {
          key: row[key]
          for key in row
          if key.startswith(('test/', 'eval/')) and not metrics_lib.is_part(key)
        }
        metrics = shown or metrics
  except (OSError, ValueError, KeyError, TypeError):
    pass  # not started, or a line is incomplete; what was read so far is valid
  return Progress(min(fraction, 1.0), metrics)


def last_lines(log: Path, count: int = 10) -> str:
  """The end of a log, indented."""
  try:
    with log.open(errors='replace') as file:
      lines = deque(file, maxlen=count)
  except OSError:
    lines = ['(no log)']
  return ''.join(f'  {line.rstrip()}\n' for line in lines).rstrip('\n')


def _import(path: str) -> ModuleType:
  if not os.path.isfile(path):
    raise UserError(f'no configuration file {path!r}; write CONFIG.py:SWEEP.')
  spec = importlib.util.spec_from_file_location(Path(path).stem, path)
  if spec is None or spec.loader is None:
    raise UserError(f'{path} is not a Python file.')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(f'cannot import {path}: {type(error).__name__}: {error}') from error
  return module


def _config(
  module: ModuleType, spec: str, overrides: dict[str, Any], texts: Mapping[str, str], where: str
) -> config_dict.FrozenConfigDict:
  if 'seed' not in overrides:
    raise UserError(f'{where}: it must set a seed.')
  try:
    config = module.get_config(spec)
    for key, value in (overrides | dict(texts)).items():
      if settings.is_among(key, settings.CHOSEN):
        raise ValueError(f'{key!r} cannot be overridden; choose it in SPEC')
      parent, _, name = key.rpartition('.')
      section = config.get(parent, {}) if parent else config
      if name not in section:
        raise ValueError(f'the config has no key {key!r}')
      section[name] = _parse(value, section[name]) if key in texts else value
    if 'experiment' not in config:
      raise ValueError('the config has no experiment')
    settings.check(config)
  except Exception as error:  # anything that the config file raises
    raise UserError(f'{where}: {error}') from error
  return config_dict.FrozenConfigDict(config)


def _trial(
  path: str,
  spec: str,
  overrides: dict[str, Any],
  texts: Mapping[str, str],
  config: config_dict.FrozenConfigDict,
  directory: Path,
  data_dir: str | None,
) -> Trial:
  parts = [spec, *(f'{key}={_text(value)}' for key, value in overrides.items())]
  parts += [f'{key}={text}' for key, text in texts.items() if key not in settings.LOGGING]
  name = '-'.join(re.sub(r'[^\w.=+]+', '-', part) for part in parts)
  command = [sys.executable, '-m', f'experiments.{config.experiment}', '--config', f'{path}:{spec}']
  command += [f'--config.{key}={_text(value)}' for key, value in (overrides | dict(texts)).items()]
  command += ['--workdir', str(directory / name)]
  command += ['--data_dir', data_dir] if data_dir else []
  return Trial(name, config, directory / name, directory / 'logs' / f'{name}.log', tuple(command))


def _parse(text: str, old: Any) -> Any:
  """The value of a flag, of the type of the value that it replaces: '0.001' → 0.001."""
  if isinstance(old, str):
    return text
  if isinstance(old, bool):
    return {'true': True, '1': True, 'false': False, '0': False}.get(text.lower(), text)
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text  # the config refuses it


def _text(value: Any) -> str:
  """The value of a flag: 0.001, True, wn."""
  return str(value)
