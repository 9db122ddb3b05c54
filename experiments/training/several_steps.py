"""Several training steps in one call, which spares a GPU the wait for Python between short steps.

Not for a CPU: inside a loop, XLA computes convolutions there on one thread.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def group(batches: np.ndarray, count: int) -> np.ndarray:
  """The batches [steps, B] of an epoch, `count` to a call: [calls, count, B], or as they are."""
  return batches if count == 1 else batches.reshape(-1, count, batches.shape[-1])


def in_one_call(step: Callable[..., Any], count: int) -> Callable[..., Any]:
  """A function that takes `count` steps: with 1, `step` itself.

  Args:
    step: takes the state, the indices [B] of a batch and further arguments; returns the new state
      and a dictionary of metrics.
    count: number of steps. With more than one, the indices are [count, B] and the metrics means.
  """
  if count == 1:
    return step

  def steps(state: Any, indices: jax.Array, *args: Any) -> tuple[Any, dict[str, jax.Array]]:
    state, metrics = lax.scan(lambda state, batch: step(state, batch, *args), state, indices)
    return state, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

  return steps
