"""Stops a run at the first number that is not finite, and names it."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.runtime.errors import UserError


class NotFinite(UserError):
  """A metric is not finite.

  Args:
    name: of the metric.
    value: NaN or an infinity.
    step: when it was computed.
    where: more about it.
  """

  def __init__(self, name: str, value: float, step: int, where: str = ''):
    super().__init__(
      f'{name} is {value} at step {step}{where and f" ({where})"}; the checkpoints before it '
      'remain. Lower the learning rate, or look at the data and the initialization; the same '
      'command with JAX_DEBUG_NANS=True in front stops at the operation that made it.'
    )
    self.name, self.value, self.step = name, value, step


def check_finite(step: int, values: Mapping[str, float]) -> None:
  """Checks the metrics of a step.

  Raises:
    NotFinite: one is not finite.
  """
  for name, value in values.items():
    if not math.isfinite(value):
      raise NotFinite(name, value, step)


def check_parameters(step: int, params: Any) -> None:
  """Checks the parameters after a step, by their sum.

  Raises:
    NotFinite: one is not finite; the message names it.
  """
  with described(params):
    check_finite(step, {'the sum of the parameters': float(_sum_of(params))})


@contextlib.contextmanager
def described(params: Any) -> Iterator[None]:
  """Adds to a `NotFinite` which parameters are not finite."""
  try:
    yield
  except NotFinite as error:
    raise NotFinite(error.name, error.value, error.step, describe(params)) from error


def describe(params: Any) -> str:
  """'conv1.kernel is the first of 3 parameters that are not finite', or that all are."""
  bad = [
    jax.tree_util.keystr(path, simple=True, separator='.').removesuffix('.value')
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.isfinite(leaf).all()
  ]
  if not bad:
    return 'all parameters are finite'
  if len(bad) == 1:
    return f'of the parameters, {bad[0]} is not finite'
  return f'{len(bad)} parameters are not finite, the first is {bad[0]}'


@jax.jit
def _sum_of(params: Any) -> jax.Array:
  return optax.tree.sum(params)
