"""Arrays and decisions that several processes share. One process alone passes through."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

Tree = TypeVar('Tree')

_BARRIER_MS = 30 * 60 * 1000  # before the first collective operation


def all_devices() -> jax.sharding.Mesh:
  """All devices of all processes along one axis, 'data'."""
  return jax.sharding.Mesh(np.asarray(jax.devices()), ('data',))


def put(array: Any, sharding: NamedSharding) -> jax.Array:
  """Places an array that every process holds whole."""
  if sharding.is_fully_addressable:
    return jax.device_put(array, sharding)
  array = np.asarray(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def replicate_first(arrays: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Copies the arrays of process 0 to every device. Waits for all processes.

  What each process computed on its own may differ in the last digit, and replicas that differ once
  stay different.
  """
  replicated = NamedSharding(mesh, PartitionSpec())
  if jax.process_count() == 1:
    return jax.tree.map(lambda array: put(array, replicated), arrays)

  def rows(array: jax.Array) -> jax.Array:
    """One row per device: the array on the first device of process 0, zeros elsewhere."""
    row = np.asarray(array)[None]
    value = lambda index: row if index[0].start == 0 else np.zeros_like(row)
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return jax.make_array_from_callback((mesh.size, *row.shape[1:]), sharding, value)

  arrays = jax.tree.map(rows, arrays)
  total = lambda rows: jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), rows)
  compiled = jax.jit(total, out_shardings=replicated).lower(arrays).compile()
  # Between CPUs (Gloo) a collective operation fails if a process arrives 30 s late.
  ocp.multihost.get_barrier_sync_fn()(key='replicate_first', timeout_ms=_BARRIER_MS)
  return compiled(arrays)


class Agreement:
  """Lets every process learn of a signal in the same step, whichever process received it.

  All processes call it equally often. A number passed to one call reaches the others at the next
  call, so nobody waits: the devices take the maximum between two steps. A process that is alone
  gets its own number back.
  """

  def __init__(self):
    self._last: jax.Array | None = None

  def __call__(self, signum: int | None) -> int | None:
    """Passes on the number of a signal, or None; returns what the processes agreed on."""
    if jax.process_count() == 1:
      return signum
    last, self._last = self._last, _largest(signum or 0)
    return None if last is None else int(last) or None

  def now(self, signum: int | None) -> int | None:
    """Like the call, but waits for the others and includes the numbers passed to this call."""
    self(signum)
    return self(signum)


@functools.cache
def _maximum(mesh: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _largest(number: int) -> jax.Array:
  """The largest of the numbers that the processes pass."""
  mesh = all_devices()
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  return _maximum(mesh)(put(np.full(mesh.size, number, np.int32), sharding))
