"""The mesh that the batch is split over, and the convolution for its devices."""

from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.training import winograd as winograd_lib
from experiments.training.errors import UserError


def data_mesh(batch_size: int) -> jax.sharding.Mesh:
  """One axis, 'data', over all devices.

  Raises:
    UserError: the devices cannot share the batch evenly.
  """
  count = jax.device_count()
  if batch_size % count:
    raise UserError(f'batch_size={batch_size} cannot be split evenly over {count} devices.')
  return jax.sharding.Mesh(np.asarray(jax.devices()), ('data',))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """On every device whole: the state and the data sets."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Split over the first axis: a batch."""
  return NamedSharding(mesh, PartitionSpec('data'))


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
