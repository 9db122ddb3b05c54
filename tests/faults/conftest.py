"""The training loop on a model of a few numbers, which compiles at once: many faults are tried."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.training import loop, quiet
from experiments.training.metrics import read_rows
from experiments.training.state import TrainState

OPTIMIZER = optax.sgd(0.1)


@jax.jit
def train_step(state, indices):
  gradients = jax.tree.map(lambda w: w * jnp.mean(indices), state.params)
  metrics = {'train/loss': state.params['w'][...] + jnp.sin(state.step)}
  return state.apply_gradients(gradients, state.model_state, OPTIMIZER), metrics


def evaluate(state):
  return {'test/error': abs(float(state.params['w'][...]) - 0.63)}


@dataclasses.dataclass
class Run:
  """A run of 3 epochs of 5 steps, with rows every 4 steps and checkpoints every 3.

  The second epoch is the best.
  """

  workdir: Path

  def __call__(self, **changes):
    """Begins it, or goes on with it; returns the last state."""
    settings = dict(
      train_step=train_step,
      evaluate=evaluate,
      order=lambda epoch: loop.epoch_order(jax.random.key(0), epoch, 10, 2) / 10,
      steps_per_epoch=5,
      epochs=3,
      workdir=self.workdir,
      best_metric='test/error',
      log_every=4,
      checkpoint_every=3,
      keep_checkpoints=2,
    )
    self.workdir.mkdir(exist_ok=True)
    return loop.train(self.state(), **{**settings, **changes})

  @staticmethod
  def state():
    params = nnx.State({'b': nnx.Param(jnp.linspace(1, 2, 500)), 'w': nnx.Param(jnp.array(1.0))})
    return TrainState.create(params, nnx.State({}), OPTIMIZER, ema=False)

  @property
  def rows(self):
    """Without the seconds."""
    rows = read_rows(self.workdir / 'metrics.jsonl')
    return [{key: value for key, value in row.items() if key != 'seconds'} for row in rows]

  @property
  def checkpoints(self):
    """Their steps."""
    folder = self.workdir / 'checkpoints'
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


@pytest.fixture(scope='session', autouse=True)
def _quiet():
  """Importing it is not enough: pytest has hooks of its own."""
  quiet.install()


@pytest.fixture
def run(tmp_path):
  return Run(tmp_path / 'run')


@pytest.fixture
def before():
  """A training step that first does something before one of the steps, counted from 0."""

  def before_(step_number, action):
    def step(state, indices):
      if int(state.step) == step_number:
        action()
      return train_step(state, indices)

    return step

  return before_


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
  """An uninterrupted run, and its last state."""
  run = Run(tmp_path_factory.mktemp('whole') / 'run')
  state = run()
  assert run.checkpoints == [10, 12, 15]
  return run, state


@pytest.fixture
def is_whole(whole):
  """Checks that a run ended as the uninterrupted one, bit for bit."""

  def check(run, state):
    assert run.rows == whole[0].rows
    assert {10, 15} <= set(run.checkpoints)  # the best and the last
    jax.tree.map(np.testing.assert_array_equal, state, whole[1])

  return check
