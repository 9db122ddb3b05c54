"""Numbers that are not finite: found by a check of the metrics, traced to an array afterwards."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runtime.errors import UserError

State = Any  # one type for all of a trace

_SECONDS = 20.0  # for `trace`


class NotFinite(UserError):
  """A metric of a step is not finite.

  Args:
    name: of the metric.
    value: NaN or an infinity.
    step: the step.
    where: more about it.
  """

  def __init__(self, name: str, value: float, step: int, where: str = ''):
    super().__init__(
      f'{name} is {value} at step {step}{where and f" ({where})"}; the checkpoints before it '
      'remain. Lower the learning rate, or look at the data and the initialisation.'
    )
    self.name, self.value, self.step = name, value, step

  def at(self, where: str) -> 'NotFinite':
    """The same with more about it."""
    return NotFinite(self.name, self.value, self.step, where)


def check_finite(step: int, values: Mapping[str, float]) -> None:
  """Checks the metrics of a step.

  Raises:
    NotFinite: one is not finite; the message names it.
  """
  for name, value in values.items():
    if not math.isfinite(value):
      raise NotFinite(name, value, step)


def first_array(tree: Any) -> str | None:
  """'conv1.kernel': name of the first array in a pytree that is not finite; None if all are."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all():
      return jax.tree_util.keystr(path, simple=True, separator='.').removesuffix('.value')
  return None


def describe(params: Any) -> str:
  """Which parameters are not finite."""
  name = first_array(params)
  return 'all parameters are finite' if name is None else f'{name} is the first such parameter'


@contextlib.contextmanager
def located(
  restore: Callable[[], State | None],
  train_step: Callable[[State, int], tuple[State, Mapping[str, jax.typing.ArrayLike]]],
  params: Callable[[], Any],
  *,
  stride: int = 1,
) -> Iterator[None]:
  """Adds to a `NotFinite` where it began, found by going on from the latest checkpoint once more.

  Args:
    restore: () → the state of the latest checkpoint, or None if there is none.
    train_step: as of `trace`.
    params: () → the present parameters.
    stride: as of `trace`.
  """
  try:
    yield
  except NotFinite as error:
    where, present = None, params()
    if jax.process_count() == 1:  # else one might give up before the others
      with contextlib.suppress(UserError):
        if (state := restore()) is not None:
          where = trace(state, train_step, error.step, stride=stride)
    raise error.at(where or describe(present)) from error


def trace(
  state: State,
  train_step: Callable[[State, int], tuple[State, Mapping[str, jax.typing.ArrayLike]]],
  last_step: int,
  *,
  stride: int = 1,
) -> str | None:
  """Takes the steps before a failure again, looking at every array after each.

  After a failure, one more step makes everything NaN; this finds what came first.

  Args:
    state: a finite one before it, with a `step` and `params`.
    train_step: (state, its step) → (state, metrics).
    last_step: where to stop.
    stride: how much a call of `train_step` adds to the step.

  Returns:
    What came first, or None if it does not come again, or not within `_SECONDS`.
  """
  deadline = time.monotonic() + _SECONDS
  for step in range(int(state.step) + stride, last_step + 1, stride):
    state, metrics = train_step(state, step - stride)
    if (name := first_array(dict(metrics))) is not None:
      return f'it began with {name} in step {step}, from finite parameters'
    if (name := first_array(state.params)) is not None:
      return f'it began with the update of {name} in step {step}'
    if time.monotonic() > deadline:
      return None
  return None
