"""Checkpoints of a run: the latest few and the best. orbax writes and reads the arrays.

A checkpoint is a folder `STEP` with the arrays, the metrics, notes (JSON values that belong to the
state) and checksums. It gets this name once it is complete, so that a killed process leaves no
partial checkpoint.

Saving is synchronous: 12 to 670 MB about once per epoch. Saving in the background gains little,
needs a copy of the state, and reports errors one call late.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from experiments.runtime import checksums, orbax_logging
from experiments.runtime.errors import UserError, check_not_replaced
from experiments.runtime.workdir import write_json

_ARRAYS = 'default'
_METRICS = 'metrics/metrics'
_NOTES = 'notes.json'
_WRITTEN = 'tmp-'  # prefix while a checkpoint is written
_DELETED = 'deleted-'  # prefix while one is deleted
_REPLACED = '.replaced'  # suffix while one is replaced by another of the same step

orbax_logging.install()


class HasStep(Protocol):
  """A pytree of arrays with a step, such as `TrainState`."""

  step: jax.Array


State = TypeVar('State', bound=HasStep)


class Checkpoints:
  """The checkpoints of one run. Damaged ones are renamed to `STEP.damaged` with a warning.

  Several processes (`jax.distributed`) make the same calls, on a shared file system. All of them
  read and write arrays; process 0 writes everything else.

  Args:
    directory: created if needed.
    keep: how many of the latest to keep.
    best_metric: the checkpoint with the best value of this metric is kept as well.
    best: `min` or `max`.

  Raises:
    UserError: all checkpoints are damaged.
  """

  def __init__(
    self, directory: Path, *, keep: int, best_metric: str, best: Callable[..., Any] = min
  ):
    self.notes: dict[str, Any] = {}  # of the restored checkpoint
    self._keep = keep
    self._best_metric = best_metric
    self._best = best
    self._directory = directory.absolute()
    self._directory.mkdir(parents=True, exist_ok=True)
    self._descriptor = os.open(self._directory, os.O_RDONLY)
    # Unique to this directory, as that of another run may take its place at any moment.
    inode = os.fstat(self._descriptor).st_ino
    self._written = self._directory / f'{_WRITTEN}{inode}'
    if _is_first_process():
      _tidy_up(self._directory)
    _wait_for_all_processes()
    damages = list(_check(self._directory))
    _wait_for_all_processes()
    if _is_first_process():
      _set_aside(damages)
    _wait_for_all_processes()

  def restore(self, state: State) -> State | None:
    """The latest state, with the structure and shardings of `state`; None if there is none.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    folders = _folders(self._directory)
    if not folders:
      return None
    self.notes = _read_json(folders[0] / _NOTES)
    return _restore(folders[0], state)

  def save(
    self,
    state: HasStep,
    metrics: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes a checkpoint; replaces one of the same step. Without metrics it is never the best.

    Raises:
      UserError: it cannot be written.
    """
    step = int(state.step)
    try:
      check_not_replaced(self._directory, self._descriptor)
      _write_arrays(self._written / _ARRAYS, state)
      if _is_first_process():
        (self._written / _METRICS).parent.mkdir()
        write_json(self._written / _METRICS, dict(metrics or {}))
        write_json(self._written / _NOTES, dict(notes or {}))
        checksums.write(self._written)
        self._give_name(step)
        check_not_replaced(self._directory, self._descriptor)
        self._delete_old()
      _wait_for_all_processes()
    except Exception as error:  # orbax and tensorstore each have their own
      self._remove_written()
      check_not_replaced(self._directory, self._descriptor)  # the likelier reason
      raise UserError(
        f'cannot write a checkpoint to {self._directory} ({_reason(error)}); fix this and rerun '
        'the same command to resume.'
      ) from error

  def close(self) -> None:
    """Closes the directory."""
    os.close(self._descriptor)

  def _give_name(self, step: int) -> None:
    """Renames what was written, inside the directory that was opened at the start."""
    here = {'src_dir_fd': self._descriptor, 'dst_dir_fd': self._descriptor}
    replaced = f'{step}{_REPLACED}'
    with contextlib.suppress(FileNotFoundError):
      os.rename(str(step), replaced, **here)
    os.rename(self._written.name, str(step), **here)
    shutil.rmtree(self._directory / replaced, ignore_errors=True)

  def _delete_old(self) -> None:
    folders = _folders(self._directory)
    values = {folder: _read_json(folder / _METRICS).get(self._best_metric) for folder in folders}
    values = {folder: value for folder, value in values.items() if value is not None}
    kept = folders[: self._keep]
    if values:
      kept.append(self._best(values, key=values.__getitem__))  # of equals, the latest
    for folder in folders:
      if folder not in kept:
        # Renamed first, so that no checkpoint is ever partly deleted.
        deleted = folder.rename(folder.with_name(f'{_DELETED}{folder.name}'))
        shutil.rmtree(deleted, ignore_errors=True)

  def _remove_written(self) -> None:
    """Removes a partial checkpoint, and directories that orbax recreated."""
    shutil.rmtree(self._written, ignore_errors=True)
    try:
      check_not_replaced(self._directory, self._descriptor)
    except UserError:
      with contextlib.suppress(OSError):  # not empty, or not there
        self._directory.rmdir()
        self._directory.parent.rmdir()


def restore_latest(directory: Path, state: State) -> State:
  """The latest undamaged state of a run, which may still be training. Writes nothing.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  directory = directory.expanduser().absolute()  # orbax needs an absolute path
  warnings = []
  for folder, damage in _check(directory):
    if damage is None:
      for warning in warnings:
        _warn(warning)
      return _restore(folder, state)
    warnings.append(f'{folder} is damaged ({damage}); using the checkpoint before it.')
  raise UserError(f'there are no checkpoints in {directory}.')


def checksum(directory: Path, step: int) -> str:
  """Checksum of a checkpoint: another training may have one of the same step.

  Raises:
    UserError: there is no such checkpoint.
  """
  path = directory / str(step) / checksums.NAME
  try:
    return hashlib.sha256(path.read_bytes()).hexdigest()  # of the checksums of its files
  except OSError as error:
    raise UserError(f'cannot read {path} ({error.strerror}).') from error


def restore_at(directory: Path, step: int, state: State) -> State:
  """The state of one step of a run, which may still be training. Writes nothing.

  Raises:
    UserError: the checkpoint is missing or damaged, or cannot be read.
  """
  folder = directory.expanduser().absolute() / str(step)
  if not folder.is_dir():
    raise UserError(f'there is no checkpoint {folder}.')
  if damage := checksums.damage(folder):
    raise UserError(f'the checkpoint {folder} is damaged ({damage}).')
  return _restore(folder, state)


def _tidy_up(directory: Path) -> None:
  """Finishes what a killed process left undone."""
  for folder in (*directory.glob(f'{_DELETED}*'), *directory.glob(f'{_WRITTEN}*')):
    shutil.rmtree(folder, ignore_errors=True)
  for folder in directory.glob(f'*{_REPLACED}'):
    checkpoint = folder.with_suffix('')
    if checkpoint.exists():
      shutil.rmtree(folder, ignore_errors=True)
    else:
      folder.rename(checkpoint)


def _set_aside(damages: list[tuple[Path, str | None]]) -> None:
  """Renames damaged checkpoints, which frees the name of their step; warns."""
  for folder, damage in damages:
    if damage is not None:
      aside = folder.with_name(f'{folder.name}.damaged')
      shutil.rmtree(aside, ignore_errors=True)
      folder.rename(aside)
      _warn(f'{folder} is damaged ({damage}); it is skipped, and kept as {aside.name}.')


def _check(directory: Path) -> Iterator[tuple[Path, str | None]]:
  """Yields the checkpoints, latest first, with their damage. Raises at the end if all have some."""
  damages = []
  for folder in _folders(directory):
    damage = checksums.damage(folder) if folder.is_dir() else 'not a directory'
    yield folder, damage
    damages.append(damage)
  if damages and all(damages):
    raise UserError(
      f'all checkpoints in {directory} are damaged (the latest: {damages[0]}); restore one, or '
      'choose another --workdir to start over.'
    )


def _folders(directory: Path) -> list[Path]:
  """The folders of the checkpoints, latest first."""
  if not directory.is_dir():
    return []
  folders = [path for path in directory.iterdir() if path.name.isdecimal()]
  return sorted(folders, key=lambda path: int(path.name), reverse=True)


def _write_arrays(folder: Path, state: HasStep) -> None:
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
    checkpointer.save(folder, args=ocp.args.StandardSave(state))


def _restore(folder: Path, state: State) -> State:
  target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return checkpointer.restore(folder / _ARRAYS, target)
  except Exception as error:  # orbax and tensorstore each have their own
    raise UserError(
      f'cannot read the checkpoint {folder} ({_reason(error)}). Its files are intact, so it is of '
      'another network or version; choose another --workdir.'
    ) from error


def _read_json(path: Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def _is_first_process() -> bool:
  return jax.process_index() == 0


def _wait_for_all_processes() -> None:
  multihost_utils.sync_global_devices('checkpoints')  # returns at once if there is only one


def _reason(error: Exception) -> str:
  if code := re.search(r"os_error_code='(\d+)'", str(error)):  # of tensorstore
    return os.strerror(int(code[1]))
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr, flush=True)
