"""Checkpoints through orbax: written in the background, the latest few and the best are kept.

Beside orbax's files each has notes, which are JSON values that go with the state, and checksums. A
checkpoint gets its name when all of it is written, so a process that is killed leaves no half.
"""

import contextlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from experiments.training import checksums, quiet
from experiments.training.errors import UserError, check_not_replaced

_NOTES = 'notes.json'
_DELETED = 'deleted'  # folder; a checkpoint is moved there first, so that none is ever half deleted
# By orbax, after the checksums; restoring needs neither.
_WRITTEN_LAST = ('_CHECKPOINT_METADATA', 'commit_success.txt')

quiet.install()


class HasStep(Protocol):
  """A pytree of arrays with its step among them, as `TrainState` is."""

  step: jax.Array


State = TypeVar('State', bound=HasStep)


class Checkpoints:
  """The checkpoints of one run. Damaged ones are renamed, with a warning, to `STEP.damaged`.

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
    self._writing: tuple[int, dict[str, Any]] = 0, {}  # step and notes
    self._directory = directory.absolute()
    self._directory.mkdir(parents=True, exist_ok=True)
    self._descriptor = os.open(self._directory, os.O_RDONLY)
    _set_damaged_aside(self._directory)
    worst = math.inf if best is min else -math.inf
    value = lambda metrics: metrics.get(best_metric, worst)
    latest = checkpoint_managers.LatestN(n=keep)
    best_one = checkpoint_managers.BestN(
      get_metric_fn=value, reverse=best is min, n=1, keep_checkpoints_without_metrics=False
    )
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best_one]),
        best_fn=value,  # has no effect beside the policy, but without it metrics are not written
        cleanup_tmp_directories=True,  # of a process that was killed while it wrote
        todelete_subdir=_DELETED,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
      ),
    )

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
    self.notes = _read_notes(folders[0])
    return _restore(folders[0], state)

  def save(
    self,
    state: HasStep,
    metrics: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts to write a checkpoint, in place of one of the same step if there is one.

    Args:
      state: may be given away afterwards.
      metrics: decide whether it is the best; None: it is not.
      notes: JSON values for `notes` of a process that goes on from here.

    Raises:
      UserError: this one, or the one before it, cannot be written.
    """
    # A copy: the next step takes the buffers of `state` for its own while orbax still writes them.
    state = jax.tree.map(jnp.copy, state)
    step = int(state.step)
    with self._errors():
      check_not_replaced(self._directory, self._descriptor)
      self._manager.wait_until_finished()
      self._delete()
      self._writing = step, dict(notes or {})
      if step in self._manager.all_steps():
        self._manager.delete(step)
      self._manager.save(step, args=ocp.args.StandardSave(state), metrics=dict(metrics or {}))

  def close(self) -> None:
    """Waits until all is written.

    Raises:
      UserError: the last checkpoint cannot be written.
    """
    try:
      with self._errors():
        self._manager.close()
        self._delete()
        check_not_replaced(self._directory, self._descriptor)
    finally:
      self._remove_leftovers()
      os.close(self._descriptor)

  def _delete(self) -> None:
    """Deletes what orbax has moved away."""
    shutil.rmtree(self._directory / _DELETED, ignore_errors=True)

  def _unfinished(self) -> list[Path]:
    """The folder that is being written, if there is one."""
    return list(self._directory.glob(f'{self._writing[0]}.orbax-checkpoint-tmp*'))

  def _seal(self) -> None:
    """Adds notes and checksums, when orbax has written all but what makes the folder valid."""
    if jax.process_index():
      return
    (folder,) = self._unfinished()
    (folder / _NOTES).write_text(json.dumps(self._writing[1]) + '\n')
    checksums.write(folder, without=_WRITTEN_LAST)

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # orbax and tensorstore each have their own
      check_not_replaced(self._directory, self._descriptor)  # the likelier reason
      raise UserError(
        f'cannot write a checkpoint to {self._directory} ({_reason(error)}); mend this and run the '
        'same command again to go on.'
      ) from error

  def _remove_leftovers(self) -> None:
    """What tensorstore was writing when the directory was deleted, which makes it anew."""
    try:
      check_not_replaced(self._directory, self._descriptor)
    except UserError:
      for folder in self._unfinished():
        shutil.rmtree(folder, ignore_errors=True)
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
  warnings = []
  for folder, damage in _check(directory):
    if damage is None:
      for warning in warnings:
        _warn(warning)
      return _restore(folder, state)
    warnings.append(f'{folder} is damaged ({damage}); the checkpoint before it is used.')
  raise UserError(f'there are no checkpoints in {directory}.')


def _set_damaged_aside(directory: Path) -> None:
  """Renames damaged checkpoints, with a warning, so that they can be looked at and saved anew.

  Raises:
    UserError: all are damaged. They are left as they are.
  """
  for folder, damage in list(_check(directory)):
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
  folders = _folders(directory)
  for i, folder in enumerate(folders):
    # Runs that began with a version of this file that wrote no checksums have older ones without.
    has_sums = any((other / checksums.NAME).exists() for other in folders[i:])
    damage = None if folder.is_dir() else 'it is no folder'
    if has_sums and not damage:
      damage = checksums.damage(folder, without=_WRITTEN_LAST)
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


def _restore(folder: Path, state: State) -> State:
  target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return checkpointer.restore(folder / 'default', target)
  except Exception as error:  # orbax and tensorstore each have their own
    raise UserError(
      f'cannot read the checkpoint {folder} ({_reason(error)}); if it is damaged, delete that '
      'folder to go on from the checkpoint before it.'
    ) from error


def _read_notes(folder: Path) -> dict[str, Any]:
  path = folder / _NOTES
  return json.loads(path.read_text()) if path.exists() else {}


def _reason(error: Exception) -> str:
  if code := re.search(r"os_error_code='(\d+)'", str(error)):  # as tensorstore has it
    return os.strerror(int(code[1]))
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr, flush=True)
