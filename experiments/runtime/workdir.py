"""The directory of a run: config, description of the data, lock, summary, and checks of these."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from experiments.runtime import settings
from experiments.runtime.errors import UserError, check_links, writing
from experiments.runtime.metrics import read_rows

_OWN_LEFTOVERS = ('config.json.tmp', 'lock')  # of a process that was killed at its start
_PACKAGES = ('weightnorm', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def check_workdir(workdir: Path, config: config_dict.FrozenConfigDict) -> None:
  """Checks that the directory is free, or holds a run of the same config. Writes nothing.

  The epochs may be raised, unless the experiment has a schedule, and `settings.LOGGING` may differ.

  Raises:
    UserError: the directory holds a run with another config or damaged rows, links that lead out
      of it, or something else.
  """
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f'{workdir} is not a directory; move it, or choose another --workdir.')
  check_links(workdir)
  path = workdir / 'config.json'
  new = json.loads(config.to_json())
  if path.exists():
    try:
      old = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
      raise UserError(f'{path} is damaged ({error}); choose another --workdir.') from error
    if old.get('experiment') != new['experiment']:
      raise UserError(f'{workdir} holds no run of {new["experiment"]}; choose another --workdir.')
    _check_same(workdir, old, new)
    read_rows(workdir / 'metrics.jsonl')
  elif workdir.is_dir() and any(p.name not in _OWN_LEFTOVERS for p in workdir.iterdir()):
    raise UserError(f'{workdir} is not empty and holds no run; choose another --workdir.')


def _check_same(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
  """Raises a `UserError` with the keys that differ if `old` cannot be resumed with `new`."""
  if settings.is_of_older_format(old):
    raise UserError(
      f'{workdir} holds a run of an older version, whose format this one does not read; choose '
      'another --workdir.'
    )
  new = settings.effective(new, ())
  old = settings.effective(old, new)
  differing = [key for key in _differing(old, new) if key not in settings.LOGGING]
  if not differing:
    return
  changes = ', '.join(f'{k} ({old.get(k)} there, {new.get(k)} now)' for k in differing)
  if differing == ['epochs']:
    if reason := settings.SCHEDULES.get(new['experiment']):
      raise UserError(
        f'{workdir} holds a run of another length: {changes}. It cannot be changed: {reason}. '
        'Choose another --workdir.'
      )
    if new['epochs'] > old['epochs']:
      return
    changes += '; they can only be raised'
  raise UserError(
    f'{workdir} holds a run with another config: {changes}. Choose another --workdir.'
  )


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  return [key for key in (old | new) if old.get(key) != new.get(key)]


def check_data(workdir: Path, data: Mapping[str, Any]) -> None:
  """Checks that the run in the directory, if any, was trained on data of the same digest.

  Raises:
    UserError: it was not, or it is from before runs recorded their data.
  """
  path = workdir / 'data.json'
  if not path.exists():
    if any(file.name.isdecimal() for file in (workdir / 'checkpoints').glob('*')):
      raise UserError(
        f'{workdir} holds a run of an older version, which did not write down its data; choose '
        'another --workdir.'
      )
    return
  old = _read_data(workdir)
  if old['digest'] != data['digest']:
    raise UserError(
      f'{workdir} holds a run on other data: {old.get("name")} with the digest '
      f'{str(old["digest"])[:12]}, and {data["name"]} is {data["digest"][:12]} now; restore the '
      'data, or choose another --workdir.'
    )


def create_workdir(
  workdir: Path, config: config_dict.FrozenConfigDict, data: Mapping[str, Any]
) -> None:
  """Creates the directory of a run with `config.json` and `data.json`; keeps existing files."""
  workdir.mkdir(parents=True, exist_ok=True)
  for name, value in (('config.json', json.loads(config.to_json())), ('data.json', dict(data))):
    if not (workdir / name).exists():
      with writing(workdir / name) as path:
        write_json(path, value)


@contextlib.contextmanager
def prepared(
  workdir: Path, config: config_dict.FrozenConfigDict, data: Mapping[str, Any]
) -> Iterator[None]:
  """Creates and locks the directory of a run, in process 0; then checks it again.

  Raises:
    UserError: another process is training in the directory, or it holds another run.
  """
  check_data(workdir, data)
  if jax.process_index():
    yield
    return
  create_workdir(workdir, config, data)
  with locked(workdir):
    check_workdir(workdir, config)
    check_data(workdir, data)
    _update(workdir, config)
    yield


def _update(workdir: Path, config: config_dict.FrozenConfigDict) -> None:
  """Writes a config with more epochs or other logging; the run is no longer finished."""
  path = workdir / 'config.json'
  if json.loads(path.read_text()) != (new := json.loads(config.to_json())):
    with writing(path):
      (workdir / 'summary.json').unlink(missing_ok=True)
      write_json(path, new)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
  """Locks a directory, or raises `UserError`. The lock dies with this process."""
  with (workdir / 'lock').open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(
        f'another process is training in {workdir}; wait for it, or choose another --workdir.'
      ) from error
    yield


def is_done(workdir: Path, config: config_dict.FrozenConfigDict) -> bool:
  """Checks the directory as `check_workdir`; returns whether its run is finished, and says so."""
  check_workdir(workdir, config)
  if not is_finished(workdir, config):
    return False
  print(f'{workdir} is finished; remove it, or choose another --workdir, to train again.')
  old = settings.flatten(json.loads((workdir / 'config.json').read_text()))
  new = settings.flatten(json.loads(config.to_json()))
  for key in _differing(old, new):
    if key in settings.LOGGING:
      print(f'It was trained with {key}={old.get(key)}, not {new.get(key)}.')
  return True


def is_finished(workdir: Path, config: config_dict.FrozenConfigDict) -> bool:
  """Whether the run in the directory has finished the epochs of the config.

  Raises:
    UserError: its summary is damaged.
  """
  path = workdir / 'summary.json'
  try:
    summary = dict(json.loads(path.read_text()))
    return summary['config']['epochs'] >= config.epochs
  except FileNotFoundError:
    return False
  except (ValueError, TypeError, KeyError) as error:
    raise UserError(f'{path} is damaged ({error}); choose another --workdir.') from error


def write_summary(
  workdir: Path,
  config: config_dict.FrozenConfigDict,
  *,
  best_metric: str,
  num_params: int,
  best: Callable[..., Any] = min,
) -> dict[str, Any]:
  """Writes and returns `summary.json`; `best` is `min` or `max` of `best_metric`."""
  rows = read_rows(workdir / 'metrics.jsonl')
  evaluations = [row for row in rows if best_metric in row]
  summary = {
    'final': evaluations[-1],
    'best': best(evaluations, key=lambda row: row[best_metric]),
    'wall_seconds': rows[-1]['seconds'],
    'steps_per_second': rows[-1]['step'] / rows[-1]['seconds'],
    'num_params': num_params,
    'data': _read_data(workdir),
    'config': json.loads(config.to_json()),
    'seed': config.seed,
    'commit': commit(),
    'versions': {name: _version(name) for name in _PACKAGES}
    | {'python': platform.python_version()},
    'device': {'kind': jax.devices()[0].device_kind, 'count': jax.device_count()},
    'finished': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }
  with writing(workdir / 'summary.json') as path:
    write_json(path, summary)
  return summary


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file atomically."""
  temporary = path.with_suffix('.json.tmp')
  temporary.write_text(json.dumps(value, indent=2) + '\n')
  os.replace(temporary, path)


def commit() -> str | None:
  """Commit of the source, with '-dirty' if files differ from it; None outside a checkout."""
  root = Path(__file__).parents[2]
  if not (root / '.git').exists():  # installed, perhaps inside a checkout of something else
    return None
  try:
    command = ['git', 'describe', '--always', '--abbrev=40', '--dirty', '--exclude=*']
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return result.stdout.strip()


def _read_data(workdir: Path) -> dict[str, Any]:
  path = workdir / 'data.json'
  try:
    data = dict(json.loads(path.read_text()))
    if 'digest' not in data:
      raise ValueError('it has no digest')
  except (OSError, ValueError, TypeError) as error:
    raise UserError(f'{path} is damaged ({error}); choose another --workdir.') from error
  return data


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
