"""Eight devices train as one does."""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from experiments.cifar import train
from experiments.runtime import settings
from experiments.runtime.metrics import read_rows
from tests.experiments import meshes
from tests.experiments.rows import largest_difference

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp('meshes')
  flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
  command = [sys.executable, '-m', 'tests.experiments.meshes', path]
  subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, 'XLA_FLAGS': flags})
  return path


@pytest.mark.parametrize('experiment, spec', [run[:2] for run in meshes.RUNS])
def test_metrics_are_those_of_one_device(experiment, spec, directory, figures):
  """Initialization, noise, statistics, gradients and evaluation are those of the global batch."""
  name = f'{experiment}-{settings.variant(meshes.config_of(experiment, spec))}'
  one, eight = (read_rows(directory / name / count / 'metrics.jsonl') for count in ('1', '8'))
  assert [row['step'] for row in one] == [1, 2, 2]
  figures(
    f'eight-devices-{name}', {'largest relative error of a metric': largest_difference(eight, one)}
  )


@pytest.mark.parametrize('spec, statistics', [('bn,tiny', 4), ('wn_mean_bn,tiny', 2)])
def test_a_step_sums_gradients_and_statistics_and_nothing_else(spec, statistics, directory):
  """Each number once: docs/SCALING.md. ∇g follows from ∇w; the other two are loss and error."""
  config = meshes.config_of('cifar', spec)
  create = lambda: train.create_model(config, (16, 16, 1), 10, jax.random.key(0))
  sizes = collections.Counter()  # of parameters by name; the scale of batch normalization is no g
  for path, leaf in nnx.to_flat_state(nnx.state(nnx.eval_shape(create), nnx.Param)):
    sizes['g' if path[-2:] == ('linear', 'scale') else path[-1]] += leaf.size
  features = sizes['bias']
  expected = 4 * (sizes.total() - sizes['g'] + 2 + statistics * features)
  assert sizes['g'] == (features if 'wn' in spec else 0)
  result = json.loads((directory / 'bytes.json').read_text())
  assert result[f'cifar-{settings.variant(config)}'] == {'all-reduce': expected}


def test_units_on_different_devices(directory, figures):
  """Outputs, gradients and data-dependent initialization of kernels that are split by units."""
  result = json.loads((directory / 'units.json').read_text())
  names = ('bias', 'kernel', 'scale')
  assert result['parts'] == {f'{layer}.{n}': 4 for layer in ('conv', 'linear') for n in names}
  assert result['errors'].keys() == {'outputs', 'gradients', 'parameters'}
  assert max(result['errors'].values()) < 1e-5
  figures('units-on-devices', result['errors'])


def test_deep_q_learning_uses_one_device(directory):
  assert json.loads((directory / 'dqn.json').read_text()) == [0]
