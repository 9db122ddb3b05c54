"""What is measured on eight devices: `python -m tests.experiments.meshes DIRECTORY`.

A program of its own, as the number of virtual devices is fixed when JAX starts. It trains tiny runs
on one and on all devices, whose metrics are in DIRECTORY/EXPERIMENT-VARIANT/DEVICES/metrics.jsonl,
and writes to DIRECTORY

  bytes.json  results of collective operations in a training step of each run on all devices;
  units.json  layers with their units on different devices, against layers that lie on one;
  dqn.json    devices that hold the state of deep Q-learning.
"""

import functools
import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_dict

import wn
from experiments.runtime import settings
from experiments.training import data
from tests import configurations
from tests.experiments import communication

# Statistics of the batch, data-dependent initialization, dropout, moving averages, recurrence.
RUNS = (
  ('cifar', 'wn_mean_bn,tiny', {'ema_epochs': 1.0, 'model.block_depth': 1}),
  ('cifar', 'bn,tiny', {'model.block_depth': 1, 'run.eval_batch_size': 60}),  # which 8 cannot share
  ('vae', 'digits-iaf-wn,tiny', {}),
  ('draw', 'wn,tiny', {}),
)
# Two steps of an epoch, after each the metrics, and a last batch of the test that is not full. A
# single CPU would get a convolution of its own, with other rounding.
CHANGES = {'epochs': 1, 'data.train_examples': 96, 'batch_size': 48, 'run.log_every': 1}
CHANGES |= {'run.eval_batch_size': 64, 'init.examples': 48, 'run.cpu_winograd': False}


def main(directory: Path) -> None:
  # Most of the time goes into compiling; this leaves out what comes after the work is divided.
  jax.config.update('jax_disable_most_optimizations', True)
  step_bytes = {}
  for experiment, spec, _ in RUNS:
    config = config_of(experiment, spec)
    module = importlib.import_module(f'experiments.{experiment}.train')
    module.pictures.write = lambda *_: None
    for devices in (jax.devices()[:1], jax.devices()):
      workdir = directory / f'{experiment}-{settings.variant(config)}' / str(len(devices))
      digits = data.load('digits')
      mesh = jax.sharding.Mesh(np.asarray(devices), ('data',))
      with communication.recorded() as steps:
        module.run_experiment(config, workdir, digits, mesh)
    step_bytes[f'{experiment}-{settings.variant(config)}'] = communication.count(*steps)
  write(directory / 'bytes.json', step_bytes)
  write(directory / 'units.json', units())
  write(directory / 'dqn.json', dqn())


def config_of(experiment: str, spec: str) -> config_dict.FrozenConfigDict:
  """The configuration of one of `RUNS`."""
  module = importlib.import_module(f'configs.{experiment}')
  changes = CHANGES | next(changes for *run, changes in RUNS if run == [experiment, spec])
  keys = settings.flatten(module.get_config(spec))
  there = {key: value for key, value in changes.items() if key in keys}
  return configurations.frozen(module, spec, there)


class Net(nnx.Module):
  """A convolution and a dense layer.

  Args:
    axis: of the mesh, for their units; None: they are on one device.
  """

  def __init__(self, axis: str | None):
    rngs = nnx.Rngs(0)

    def inits(ndim: int) -> dict[str, nnx.Initializer]:
      inits = {'kernel_init': nnx.initializers.normal(), 'bias_init': nnx.initializers.zeros}
      partitions = {'kernel_init': (None,) * (ndim - 1) + (axis,), 'bias_init': (axis,)}
      if axis is None:
        return inits
      return {name: nnx.with_partitioning(inits[name], partitions[name]) for name in inits}

    self.conv = wn.Conv(3, 8, (3, 3), **inits(4), rngs=rngs)
    self.linear = wn.Linear(8, 12, **inits(2), rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.linear(nnx.relu(self.conv(x)).mean(axis=(1, 2)))


def units() -> dict[str, dict]:
  """`parts`: of each parameter. `errors`: the largest, relative to the largest value."""
  x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def compute(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array) -> dict:
    model = nnx.merge(graphdef, state)
    wn.data_dependent_init(model, x)
    state = nnx.state(model)
    loss = lambda state: jnp.sum(jnp.sin(nnx.merge(graphdef, state)(x)))
    return {'outputs': model(x), 'parameters': state, 'gradients': jax.grad(loss)(state)}

  expected = compute(*nnx.split(Net(None)), x)
  types = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 4), ('data', 'model'), axis_types=types)
  with jax.set_mesh(mesh):
    graphdef, state = nnx.split(Net('model'))
    batch = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
    results = compute(graphdef, state, batch)
  parts = {
    '.'.join(map(str, path)): len({str(shard.index) for shard in leaf[...].addressable_shards})
    for path, leaf in nnx.to_flat_state(state)
  }
  return {
    'parts': parts,
    'errors': {name: error(results[name], expected[name]) for name in results},
  }


def error(tree, expected) -> float:
  # By leaves: the trees differ in the partitioning, which is part of a parameter.
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
  return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in map(jax.device_get, pairs))


def dqn() -> list[int]:
  """Numbers of the devices of the state after two updates."""
  from configs import dqn
  from experiments.dqn.actor_learner import ActorLearner

  config = dqn.get_config('breakout-wn,tiny')
  config.replay.learning_starts = 8
  learner = ActorLearner(config_dict.FrozenConfigDict(config))
  for _ in range(4):
    learner.step()
  assert int(learner.state.train.step) == 2
  return sorted({d.id for leaf in jax.tree.leaves(learner.state) for d in leaf.devices()})


def write(path: Path, value) -> None:
  path.write_text(json.dumps(value))


if __name__ == '__main__':
  main(Path(sys.argv[1]))
