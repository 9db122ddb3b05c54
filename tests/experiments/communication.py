"""What devices tell each other in a training step, read off the compiled program.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu \\
    python -m tests.experiments.communication wn bn ...

prints it for variants of CIFAR-10 at the paper's width.
"""

import collections
import contextlib
import functools
import math
import re
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_dict

from configs import cifar
from experiments.cifar import train
from experiments.training import devices
from experiments.training.state import TrainState

_COLLECTIVE = re.compile(
  r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
)
_SHAPE = re.compile(r'[a-z]+(\d+)\[([\d,]*)\]')


def count(*programs: jax.stages.Lowered) -> dict[str, int]:
  """Bytes of the results of collective operations, by kind."""
  counts = collections.Counter()
  for program in programs:
    for shapes, kind in _COLLECTIVE.findall(program.compile().as_text()):
      for bits, sizes in _SHAPE.findall(shapes):
        counts[kind] += int(bits) // 8 * math.prod(int(size) for size in sizes.split(',') if size)
  return dict(counts)


@contextlib.contextmanager
def recorded() -> Iterator[list[jax.stages.Lowered]]:
  """Collects the training steps that are called inside: what gives its first argument away."""
  jit, programs = jax.jit, []

  def recording_jit(function, **options):
    jitted = jit(function, **options)
    if options.get('donate_argnums') != 0:
      return jitted

    def call(*args):
      if not programs:
        programs.append(jitted.lower(*args))
      return jitted(*args)

    return call

  jax.jit = recording_jit
  try:
    yield programs
  finally:
    jax.jit = jit


def cifar_step(config: config_dict.ConfigDict) -> jax.stages.Lowered:
  """The training step for 32×32×3 images on all devices, without an array."""
  mesh = devices.data_mesh(config.batch_size)
  create = lambda: train.create_model(config, (32, 32, 3), 10, jax.random.key(0))
  graphdef, params, model_state = nnx.split(nnx.eval_shape(create), nnx.Param, ...)
  optimizer = train.create_optimizer(config, steps_per_epoch=1)
  create_state = functools.partial(TrainState.create, optimizer=optimizer, ema=False)
  state = jax.eval_shape(create_state, params, model_state)
  step = functools.partial(
    train.train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    ema_decay=0.0,
    with_diagnostics=False,
  )
  whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))
  step = jax.jit(step, in_shardings=(whole, split, whole, whole, whole), out_shardings=whole)
  numbers = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
  images = jax.ShapeDtypeStruct((config.batch_size, 32, 32, 3), jnp.float32)
  return step.lower(state, numbers, images, numbers, jax.eval_shape(lambda: jax.random.key(0)))


def main() -> None:
  for variant in sys.argv[1:]:
    config = cifar.get_config(variant)
    config.batch_size = 104  # eight devices cannot share 100; no number here depends on it
    print(variant, count(cifar_step(config_dict.FrozenConfigDict(config))), flush=True)


if __name__ == '__main__':
  main()
