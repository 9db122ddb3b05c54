"""The mesh that a batch is split over, of the devices of all processes; the convolution for it."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.runtime import winograd as winograd_lib
from experiments.runtime.errors import UserError

Tree = TypeVar('Tree')

_WAIT_MS = 30 * 60 * 1000  # for each other, before the first operation of all


def data_mesh(batch_size: int) -> jax.sharding.Mesh:
  """One axis, 'data', over all devices.

  Raises:
    UserError: the devices cannot share the batch evenly.
  """
  count = jax.device_count()
  if batch_size % count:
    raise UserError(f'batch_size={batch_size} cannot be split evenly over {count} devices.')
  return _all_devices()


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """On every device whole: the state and the data sets."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(arrays: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Puts arrays that every process has on every device whole."""
  return jax.tree.map(lambda array: _put(array, replicated(mesh)), arrays)


def replicate_first(arrays: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """As `replicate`, with the values of process 0.

  For what the processes computed, each by itself: they may differ in the last digit, and replicas
  that differ once stay different. All wait here for the last one to come.
  """
  if jax.process_count() == 1:
    return replicate(arrays, mesh)

  def rows(array: jax.Array) -> jax.Array:
    """One on each device: the array on the first one of process 0, else zeros."""
    row = np.asarray(array)[None]
    value = lambda index: row if index[0].start == 0 else np.zeros_like(row)
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return jax.make_array_from_callback((mesh.size, *row.shape[1:]), sharding, value)

  arrays = jax.tree.map(rows, arrays)
  total = lambda rows: jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), rows)
  compiled = jax.jit(total, out_shardings=replicated(mesh)).lower(arrays).compile()
  # Between CPUs (Gloo) a collective operation fails if one process comes 30 s late to it.
  ocp.multihost.get_barrier_sync_fn()(key='replicate_first', timeout_ms=_WAIT_MS)
  return compiled(arrays)


def split(batch: jax.Array, mesh: jax.sharding.Mesh) -> jax.Array:
  """Splits a batch that every process has whole over the devices, along the first axis.

  If they cannot share it evenly each gets all of it.
  """
  spec = PartitionSpec('data') if batch.shape[0] % mesh.size == 0 else PartitionSpec()
  return _put(batch, NamedSharding(mesh, spec))


def one_copy(arrays: Tree) -> Tree:
  """Replicated arrays on one device of this process: for what it computes by itself."""
  return jax.tree.map(lambda array: array.addressable_data(0), arrays)


class Agreement:
  """Lets every process know of a signal in the same step, whichever of them it came to.

  All call it equally often. What one gives to a call reaches them in the next call, so that nobody
  waits: the devices take the largest number between two steps. A process that is alone knows at
  once.
  """

  def __init__(self):
    self._last: jax.Array | None = None

  def __call__(self, signum: int | None) -> int | None:
    """The number of a signal, or None.

    Args:
      signum: of a signal to this process, or None.
    """
    if jax.process_count() == 1:
      return signum
    last, self._last = self._last, _largest(signum or 0)
    return None if last is None else int(last) or None

  def now(self, signum: int | None) -> int | None:
    """As the call, but what is given to it: all wait for each other."""
    self(signum)
    return self(signum)


def convolution(mesh: jax.sharding.Mesh, *, winograd: bool) -> Callable[..., jax.Array]:
  """What a layer takes as `conv_general_dilated`: `jax.lax`'s, or the fast one of a single CPU.

  The fast one cuts the batch in chunks, for which XLA would gather a batch split over devices.

  Args:
    mesh: the devices.
    winograd: False for `jax.lax`'s in any case.
  """
  is_one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'
  fast = winograd and is_one_cpu
  return winograd_lib.conv_general_dilated if fast else lax.conv_general_dilated


def _all_devices() -> jax.sharding.Mesh:
  return jax.sharding.Mesh(np.asarray(jax.devices()), ('data',))


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
  if sharding.is_fully_addressable:
    return jax.device_put(array, sharding)
  array = np.asarray(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@functools.cache
def _maximum(mesh: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(jnp.max, out_shardings=replicated(mesh))


def _largest(number: int) -> jax.Array:
  """The largest of the numbers that the processes call this with."""
  mesh = _all_devices()
  return _maximum(mesh)(split(np.full(mesh.size, number, np.int32), mesh))
