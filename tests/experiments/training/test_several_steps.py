"""A run of several steps per call is the run of one step per call."""

import jax
import numpy as np
import pytest
from ml_collections import config_dict

from configs import cifar, draw, vae
from experiments.cifar import train as cifar_train
from experiments.draw import train as draw_train
from experiments.runtime.metrics import read_rows
from experiments.training import devices
from experiments.vae import train as vae_train

EXPERIMENTS = {
  'cifar': (cifar_train, cifar.get_config('wn_mean_bn,tiny')),
  'draw': (draw_train, draw.get_config('wn,tiny')),
  'vae': (vae_train, vae.get_config('digits-iaf-wn,tiny')),
}


def run(experiment, workdir, steps_per_call):
  module, config = EXPERIMENTS[experiment]
  config = config.copy_and_resolve_references()
  config.epochs = 1
  config.data.train_examples = 6 * config.batch_size
  config.run.log_every = 6
  config.run.checkpoint_every = 3
  config.run.steps_per_call = steps_per_call
  module.train(config_dict.FrozenConfigDict(config), workdir)
  return read_rows(workdir / 'metrics.jsonl')


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_the_rows_are_those_of_one_step_per_call(experiment, tmp_path):
  ours, expected = run(experiment, tmp_path / 'three', 3), run(experiment, tmp_path / 'one', 1)
  assert [row['step'] for row in ours] == [row['step'] for row in expected]
  for row, expected_row in zip(ours, expected, strict=True):
    assert row.keys() == expected_row.keys()
    for name in row.keys() - {'seconds'}:
      np.testing.assert_allclose(row[name], expected_row[name], rtol=1e-4, err_msg=name)


def test_indices_of_several_steps_are_split_along_the_batch():
  mesh = devices.data_mesh(4)
  indices = devices.split(np.arange(12).reshape(3, 4), mesh)
  np.testing.assert_array_equal(indices, np.arange(12).reshape(3, 4))
  assert indices.sharding.spec == jax.sharding.PartitionSpec(None, 'data')
