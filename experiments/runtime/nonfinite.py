"""Stops a run at the first metric or parameter that is not finite, and names it."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.runtime.errors import UserError


class NotFinite(UserError):
  """A metric is not finite; `where` is what `describe` says of the parameters."""

  def __init__(self, name: str, value: float, step: int, where: str = ''):
    super().__init__(
      f'{name} is {value} at step {step}{where and f" ({where})"}; the checkpoints before it are '
      'kept. Lower the learning rate, or look at the data and the initialization; to find the '
      'operation, rerun the same command with JAX_DEBUG_NANS=True in front.'
    )
    self.name, self.value, self.step = name, value, step


def check_finite(step: int, values: Mapping[str, float]) -> None:
  """Checks the metrics of a step.

  Raises:
    NotFinite: a value is not finite.
  """
  for name, value in values.items():
    if not math.isfinite(value):
      raise NotFinite(name, value, step)


def check_parameters(step: int, params: Any) -> None:
  """Checks the parameters after a step, by their sum.

  Raises:
    NotFinite: a parameter is not finite; the message names it.
  """
  with described(params):
    check_finite(step, {'the sum of the parameters': float(_sum_of(params))})


@contextlib.contextmanager
def described(params: Any) -> Iterator[None]:
  """Adds `describe(params)` to a `NotFinite` raised inside."""
  try:
    yield
  except NotFinite as error:
    raise NotFinite(error.name, error.value, error.step, describe(params)) from error


def describe(params: Any) -> str:
  """E.g. '3 parameters are not finite, the first is conv1.kernel'."""
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
