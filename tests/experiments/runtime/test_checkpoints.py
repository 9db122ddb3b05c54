"""Reading checkpoints by any kind of path; tests/faults has what can go wrong with them."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.runtime import checkpoints
from experiments.runtime.errors import UserError
from experiments.training.state import TrainState


def state_at(step):
  params = nnx.State({'w': nnx.Param(jnp.full(3, float(step)))})
  state = TrainState.create(params, nnx.State({}), optax.sgd(1.0), ema=False)
  return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))


@pytest.mark.parametrize('directory', ['run/checkpoints', './run/checkpoints', '~/run/checkpoints'])
def test_paths_may_be_relative(directory, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  kept = checkpoints.Checkpoints(Path('run/checkpoints'), keep=2, best_metric='loss')
  for step in (3, 5):
    kept.save(state_at(step))
  kept.close()
  directory = Path(directory)
  for step, state in (
    (5, checkpoints.restore_latest(directory, state_at(0))),
    (3, checkpoints.restore_at(directory, 3, state_at(0))),
  ):
    assert int(state.step) == step
    np.testing.assert_array_equal(state.params['w'][...], step)
  with pytest.raises(UserError, match=f'there is no checkpoint {tmp_path}/run/checkpoints/4'):
    checkpoints.restore_at(directory, 4, state_at(0))
