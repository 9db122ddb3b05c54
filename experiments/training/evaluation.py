"""Evaluation over exactly one pass of a split."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.runtime import interrupts
from experiments.runtime.errors import Interrupted
from experiments.runtime.multiprocess import Agreement
from experiments.training import devices


def sum_over(
  eval_step: Callable[..., Any],
  state: Any,
  arrays: tuple[jax.Array, ...],
  *,
  num_examples: int,
  batch_size: int,
  mesh: jax.sharding.Mesh,
) -> Any:
  """Sums `eval_step(state, indices, weights, *arrays)`; pads the last batch with weight 0.

  Args:
    eval_step: for indices [B] and weights [B], 0 or 1, returns a pytree of sums over the batch.
    state: to evaluate.
    arrays: further arguments, such as the examples.
    num_examples: size of the split.
    batch_size: B.
    mesh: devices to split a batch over.

  Raises:
    Interrupted: a signal arrived in a training loop.
  """
  sums = None
  agreed = Agreement()
  for start in range(0, num_examples, batch_size):
    if stop := agreed(interrupts.signum()):
      raise Interrupted(stop)
    indices = np.arange(start, start + batch_size)
    weights = (indices < num_examples).astype(np.float32)
    indices = np.minimum(indices, num_examples - 1)
    batch = eval_step(state, devices.split(indices, mesh), devices.split(weights, mesh), *arrays)
    sums = batch if sums is None else jax.tree.map(np.add, sums, jax.device_get(batch))
  return jax.device_get(sums)
