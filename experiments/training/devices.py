"""Settings of XLA, and the mesh that the batch is split over.

`configure` is the one place that sets XLA flags; call it before JAX first touches a device.
"""

import os

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.training.errors import UserError

# XLA:CPU by default hands convolutions to its YNN library, whose weight gradient is slow
# (jaxlib 0.10; docs/DECISIONS.md). The flag has no effect on a GPU or TPU.
_CPU_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CPU_FLAG_VALUE = 'LIBRARY_FUSION_TYPE_REDUCE'
_JAXLIB_WITH_FLAG = ('0.10.',)  # an XLA that does not know a flag refuses to start


def configure() -> None:
  """Sets the XLA flags for CPUs, unless the user set them."""
  flags = os.environ.get('XLA_FLAGS', '')
  if _CPU_FLAG not in flags and jax.lib.__version__.startswith(_JAXLIB_WITH_FLAG):
    os.environ['XLA_FLAGS'] = f'{flags} {_CPU_FLAG}={_CPU_FLAG_VALUE}'.strip()


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
