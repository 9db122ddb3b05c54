"""Checkpoints: the latest few and the best are kept; orbax writes and reads their arrays.

A checkpoint is a folder with the arrays, the metrics, notes, which are JSON values that go with the
state, and checksums of all of these. It gets its name when all of it is written, so a process that
is killed leaves no half.

Saving is synchronous. The states here have 20 to 660 MB and are saved about once an epoch: to write
them beside the training would save little, and takes a copy of the state, errors that come with the
next call, and files that appear behind the back of whoever looks at the directory.
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
_WRITTEN = 'tmp-'  # how the name of a checkpoint begins that is being written
_DELETED = 'deleted-'  # how the name of one begins that is being deleted
_REPLACED = '.replaced'  # how the name of one ends that makes room for another of the same step

orbax_logging.install()


class HasStep(Protocol):
  """A pytree of arrays with its step among them, as `TrainState` is."""

  step: jax.Array


State = TypeVar('State', bound=HasStep)


class Checkpoints:
  """The checkpoints of one run. Damaged ones are renamed, with a warning, to `STEP.damaged`.

  With several processes (`jax.distributed`) each calls all of it, on one file system; the arrays
  are written and read by all, and everything else is written by process 0.

  Args:
    directory: where they are kept, one folder a step.
    keep: how many of the latest to keep.
    best_metric: name of the metric whose best value marks a checkpoint that is kept as well.
    best: `min` or `max`: which value is the best.

  Attributes:
    notes: those of the restored checkpoint; {} if there is none.

  Raises:
    UserError: all checkpoints are damaged; or the file system refuses something.
  """

  def __init__(
    self, directory: Path, *, keep: int, best_metric: str, best: Callable[..., Any] = min
  ):
    self.notes: dict[str, Any] = {}
    self._keep = keep
    self._best_metric = best_metric
    self._best = best
    self._directory = directory.absolute()
    self._directory.mkdir(parents=True, exist_ok=True)
    self._descriptor = os.open(self._directory, os.O_RDONLY)
    # A name of this directory's own: another run's may come in its place at any moment.
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
    """The latest state, or None if there is none.

    Args:
      state: a state of the same run, for the structure, shapes and placement on devices.

    Raises:
      UserError: it cannot be read.
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
    """Writes a checkpoint, in place of one of the same step if there is one.

    Args:
      state: what to write.
      metrics: decide whether it is the best; None: it is not.
      notes: JSON values for `notes` of a process that goes on from here.

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
        f'cannot write a checkpoint to {self._directory} ({_reason(error)}); mend this and run the '
        'same command again to go on.'
      ) from error

  def close(self) -> None:
    """Leaves the directory."""
    os.close(self._descriptor)

  def _give_name(self, step: int) -> None:
    """Makes what was written the checkpoint of a step, in the directory that the run began with."""
    rename = lambda old, new: os.rename(
      old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor
    )
    replaced = f'{step}{_REPLACED}'
    with contextlib.suppress(FileNotFoundError):
      rename(str(step), replaced)
    rename(self._written.name, str(step))
    shutil.rmtree(self._directory / replaced, ignore_errors=True)

  def _delete_old(self) -> None:
    folders = _folders(self._directory)
    values = {folder: _read_json(folder / _METRICS).get(self._best_metric) for folder in folders}
    values = {folder: value for folder, value in values.items() if value is not None}
    kept = folders[: self._keep]
    if values:
      kept.append(self._best(values, key=values.__getitem__))  # the latest of equals
    for folder in folders:
      if folder not in kept:
        # None is ever half deleted under its own name.
        deleted = folder.rename(folder.with_name(f'{_DELETED}{folder.name}'))
        shutil.rmtree(deleted, ignore_errors=True)

  def _remove_written(self) -> None:
    """Removes half a checkpoint, and what orbax made anew when its directory was deleted."""
    shutil.rmtree(self._written, ignore_errors=True)
    try:
      check_not_replaced(self._directory, self._descriptor)
    except UserError:
      with contextlib.suppress(OSError):  # not empty, or not there
        self._directory.rmdir()
        self._directory.parent.rmdir()


def restore_latest(directory: Path, state: State) -> State:
  """The latest undamaged state of a run, which may be in training; writes nothing.

  Args:
    directory: of its checkpoints.
    state: for the structure and the shapes.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  directory = directory.expanduser().absolute()  # orbax reads no other paths
  warnings = []
  for folder, damage in _check(directory):
    if damage is None:
      for warning in warnings:
        _warn(warning)
      return _restore(folder, state)
    warnings.append(f'{folder} is damaged ({damage}); the checkpoint before it is used.')
  raise UserError(f'there are no checkpoints in {directory}.')


def checksum(directory: Path, step: int) -> str:
  """Checksum of the checkpoint of a step, which tells it from that of another training.

  Raises:
    UserError: it is not there.
  """
  path = directory / str(step) / checksums.NAME
  try:
    return hashlib.sha256(path.read_bytes()).hexdigest()  # of the checksums of its files
  except OSError as error:
    raise UserError(f'cannot read {path} ({error.strerror}).') from error


def restore_at(directory: Path, step: int, state: State) -> State:
  """The state of a certain step of a run, which may be in training; writes nothing.

  Args:
    directory: of its checkpoints.
    step: of the state.
    state: for the structure and the shapes.

  Raises:
    UserError: it is not there, damaged, or cannot be read.
  """
  folder = directory.expanduser().absolute() / str(step)
  if not folder.is_dir():
    raise UserError(f'there is no checkpoint {folder}.')
  if damage := checksums.damage(folder):
    raise UserError(f'the checkpoint {folder} is damaged ({damage}).')
  return _restore(folder, state)


def _tidy_up(directory: Path) -> None:
  """Ends what a killed process had begun."""
  for folder in (*directory.glob(f'{_DELETED}*'), *directory.glob(f'{_WRITTEN}*')):
    shutil.rmtree(folder, ignore_errors=True)
  for folder in directory.glob(f'*{_REPLACED}'):
    checkpoint = folder.with_suffix('')
    if checkpoint.exists():
      shutil.rmtree(folder, ignore_errors=True)
    else:
      folder.rename(checkpoint)


def _set_aside(damages: list[tuple[Path, str | None]]) -> None:
  """Renames damaged checkpoints, with a warning, so that they can be looked at and written anew."""
  for folder, damage in damages:
    if damage is not None:
      aside = folder.with_name(f'{folder.name}.damaged')
      shutil.rmtree(aside, ignore_errors=True)
      folder.rename(aside)
      _warn(f'{folder} is damaged ({damage}); it is left out, and kept as {aside.name}.')


def _check(directory: Path) -> Iterator[tuple[Path, str | None]]:
  """The checkpoints, latest first, and what is wrong with each: None if nothing is.

  Raises:
    UserError: at the end, if all are damaged.
  """
  damages = []
  for folder in _folders(directory):
    damage = checksums.damage(folder) if folder.is_dir() else 'it is no folder'
    yield folder, damage
    damages.append(damage)
  if damages and all(damages):
    raise UserError(
      f'all checkpoints in {directory} are damaged (the latest: {damages[0]}); restore one, or '
      'choose another --workdir to train anew.'
    )


def _folders(directory: Path) -> list[Path]:
  """Those of the checkpoints, latest first."""
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
      f'cannot read the checkpoint {folder} ({_reason(error)}). Its files are whole: it is of '
      'another network or version; choose another --workdir.'
    ) from error


def _read_json(path: Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def _is_first_process() -> bool:
  return jax.process_index() == 0


def _wait_for_all_processes() -> None:
  multihost_utils.sync_global_devices('checkpoints')  # nothing to wait for if there is one


def _reason(error: Exception) -> str:
  if code := re.search(r"os_error_code='(\d+)'", str(error)):  # as tensorstore has it
    return os.strerror(int(code[1]))
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr, flush=True)
