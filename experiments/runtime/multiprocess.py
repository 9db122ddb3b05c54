"""Arrays and decisions shared by several processes."""

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
  """A mesh of all devices of all processes along one axis, 'data'."""
  return jax.sharding.Mesh(np.asarray(jax.devices()), ('data',))


def put(array: Any, sharding: NamedSharding) -> jax.Array:
  """Shards an array of which every process has a full copy."""
  if sharding.is_fully_addressable:
    return jax.device_put(array, sharding)
  array = np.asarray(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def replicate_first(arrays: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Copies the arrays of process 0 to every device. Waits for all processes.

  Arrays that each process computes for itself may differ in the last digit, and replicas that
  differ once stay different.
  """
  replicated = NamedSharding(mesh, PartitionSpec())
  if jax.process_count() == 1:
    return jax.tree.map(lambda array: put(array, replicated), arrays)

  def rows(array: jax.Array) -> jax.Array:
    """One row per device: the array on the first device of process 0, zeros elsewhere."""
    row = np.asarray(array)[None]
    return jax.make_array_from_callback(
      (mesh.size, *row.shape[1:]),
      NamedSharding(mesh, PartitionSpec('data')),
      lambda index: row if index[0].start == 0 else np.zeros_like(row),
    )

  def total(arrays: Tree) -> Tree:
    return jax.tree.map(lambda rows: jnp.sum(rows, axis=0, dtype=rows.dtype), arrays)

  arrays = jax.tree.map(rows, arrays)
  compiled = jax.jit(total, out_shardings=replicated).lower(arrays).compile()
  # Between CPUs (Gloo) a collective operation fails if a process arrives 30 s late.
  ocp.multihost.get_barrier_sync_fn()(key='replicate_first', timeout_ms=_BARRIER_MS)
  return compiled(arrays)


class Agreement:
  """Makes all processes see a signal in the same step, whichever of them received it.

  All processes make the same calls. A number passed to one call reaches the others in the next, so
  that nobody waits. A single process gets its own number back at once.
  """

  def __init__(self):
    self._last: jax.Array | None = None

  def __call__(self, signum: int | None) -> int | None:
    """Takes the number of a signal or None; returns what the processes agreed on."""
    if jax.process_count() == 1:
      return signum
    last, self._last = self._last, _largest(signum or 0)
    return None if last is None else int(last) or None

  def now(self, signum: int | None) -> int | None:
    """Like the call, but waits for the numbers that the others pass to this call."""
    self(signum)
    return self(signum)


@functools.cache
def _maximum(mesh: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _largest(number: int) -> jax.Array:
  """The maximum over all processes."""
  mesh = all_devices()
  sharding = NamedSharding(mesh, PartitionSpec('data'))
  return _maximum(mesh)(put(np.full(mesh.size, number, np.int32), sharding))
