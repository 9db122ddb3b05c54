"""One mesh over all devices: batches are split over it, the state and the data are replicated."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.runtime import multiprocess, winograd
from experiments.runtime.errors import UserError
from experiments.training import several_steps

Tree = TypeVar('Tree')


def data_mesh(batch_size: int) -> jax.sharding.Mesh:
  """One axis, 'data', over all devices of all processes.

  Raises:
    UserError: the devices cannot share the batch evenly.
  """
  count = jax.device_count()
  if batch_size % count:
    raise UserError(f'batch_size={batch_size} cannot be split evenly over {count} devices.')
  return multiprocess.all_devices()


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(arrays: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Copies arrays, which every process holds, to every device."""
  return jax.tree.map(lambda array: multiprocess.put(array, replicated(mesh)), arrays)


def replicate_first(arrays: Tree, mesh: jax.sharding.Mesh) -> Tree:
  """Copies the arrays of process 0 to every device; those of others may differ in a last digit."""
  return multiprocess.replicate_first(arrays, mesh)


def split(batch: jax.Array, mesh: jax.sharding.Mesh) -> jax.Array:
  """Splits indices [B] or [steps, B] over B, or replicates them if B cannot be shared evenly."""
  axes = *[None] * (batch.ndim - 1), 'data'
  spec = PartitionSpec(*axes) if batch.shape[-1] % mesh.size == 0 else PartitionSpec()
  return multiprocess.put(batch, NamedSharding(mesh, spec))


def one_copy(arrays: Tree) -> Tree:
  """Replicated arrays on one device of this process, to compute without the others."""
  return jax.tree.map(lambda array: array.addressable_data(0), arrays)


def compile_steps(
  train_step: Callable[..., Any],
  eval_step: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  *,
  steps_per_call: int,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Compiles a training step, or several of them in a call, and the step of an evaluation.

  The training step donates its state. Only the indices of a batch are split over devices; outputs
  are replicated, so XLA sums gradients.
  """
  train_step = several_steps.in_one_call(train_step, steps_per_call)
  out = replicated(mesh)
  return (
    jax.jit(train_step, donate_argnums=0, out_shardings=out),
    jax.jit(eval_step, out_shardings=out),
  )


def convolution(mesh: jax.sharding.Mesh, *, use_winograd: bool) -> Callable[..., jax.Array]:
  """A layer's `conv_general_dilated`: Winograd's on a single CPU if asked for, else `jax.lax`'s.

  Winograd's cuts the batch into chunks, for which XLA would gather a batch split over devices.
  """
  is_one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'
  return winograd.conv_general_dilated if use_winograd and is_one_cpu else lax.conv_general_dilated
