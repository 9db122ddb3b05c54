"""Checkpoints through orbax: written in the background, the latest few and the best are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from experiments.training.errors import UserError


class HasStep(Protocol):
  """A pytree of arrays with its step among them, as `TrainState` is."""

  step: jax.Array


State = TypeVar('State', bound=HasStep)


class Checkpoints:
  """The checkpoints of one run.

  Args:
    directory: where they are kept, one folder a step.
    keep: how many of the latest to keep.
    best_metric: name of the metric whose best value marks a checkpoint that is kept as well.
    best: `min` or `max`: which value is the best.
  """

  def __init__(
    self, directory: Path, *, keep: int, best_metric: str, best: Callable[..., Any] = min
  ):
    latest = checkpoint_managers.LatestN(n=keep)
    best_one = checkpoint_managers.BestN(
      get_metric_fn=lambda metrics: metrics[best_metric],
      reverse=best is min,
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    self._manager = ocp.CheckpointManager(
      directory.absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best_one]),
        cleanup_tmp_directories=True,  # of a process that was killed while it wrote
      ),
    )

  def restore(self, state: State) -> State | None:
    """The latest state, or None if there is none.

    Args:
      state: a state of the same run, for the structure, shapes and placement on devices.

    Raises:
      UserError: the latest checkpoint is damaged.
    """
    return _restore(self._manager, state)

  def save(self, state: HasStep, metrics: dict[str, float] | None = None) -> None:
    """Starts to write a checkpoint; `metrics` decide whether it is the best."""
    # A copy: the next step takes the buffers of `state` for its own while orbax still writes them.
    state = jax.tree.map(jnp.copy, state)
    self._manager.save(int(state.step), args=ocp.args.StandardSave(state), metrics=metrics)

  def close(self) -> None:
    """Waits until all is written."""
    self._manager.close()


def restore_latest(directory: Path, state: State) -> State:
  """The latest state of a run, which may be in training; writes nothing.

  Args:
    directory: of its checkpoints.
    state: for the structure and the shapes.

  Raises:
    UserError: there is none, or it is damaged.
  """
  restored = None
  if directory.is_dir():
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
      restored = _restore(manager, state)
  if restored is None:
    raise UserError(f'there are no checkpoints in {directory}.')
  return restored


def _restore(manager: ocp.CheckpointManager, state: State) -> State | None:
  step = manager.latest_step()
  if step is None:
    return None
  target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
  try:
    return manager.restore(step, args=ocp.args.StandardRestore(target))
  except Exception as error:  # orbax and tensorstore each have their own
    folder = manager.directory / str(step)
    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    raise UserError(
      f'cannot read the checkpoint {folder} ({reason}); if it is damaged, delete that folder to go '
      'on from the checkpoint before it.'
    ) from error
