"""The experiment from end to end on digits: every variant, golden values, resuming, pictures."""

import functools
import json
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from flax import nnx

from configs import cifar
from experiments.cifar import train as train_lib
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.metrics import read_rows
from experiments.training import data
from experiments.training.state import TrainState
from tests import configurations

ROOT = Path(__file__).parents[3]
KEY = jax.random.key(5)


frozen = functools.partial(configurations.frozen, cifar)


@pytest.mark.parametrize('variant', cifar.VARIANTS)
def test_every_variant_runs_end_to_end(variant, tmp_path):
  config = frozen(f'{variant},tiny')
  train_lib.train(config, tmp_path / 'run')
  rows = read_rows(tmp_path / 'run' / 'metrics.jsonl')
  tests = [row for row in rows if 'test/error' in row]
  assert [row['epoch'] for row in tests] == [1, 2, 3]
  assert all(0 <= row['test/error'] <= 1 and row['test/loss'] > 0 for row in tests)

  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  assert summary['final'] == tests[-1]
  assert summary['best']['test/error'] == min(row['test/error'] for row in tests)
  assert summary['config'] == json.loads(config.to_json()) and summary['seed'] == 0
  assert set(summary) == {
    'final', 'best', 'wall_seconds', 'steps_per_second', 'num_params', 'data', 'config', 'seed',
    'commit', 'versions', 'device', 'finished',
  }  # fmt: skip
  for name in ('learning_curve', 'confusion_matrix', 'filters'):
    height, width, _ = matplotlib.image.imread(tmp_path / 'run' / f'{name}.png').shape
    assert min(height, width) >= 50
  assert list((tmp_path / 'run' / 'tensorboard').iterdir())


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
  config = frozen('wn,tiny', {'epochs': 1})
  train_lib.train(config, tmp_path)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
  train_lib.train(config, tmp_path)
  assert 'is finished' in capsys.readouterr().out
  assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_moving_average_is_trained_and_evaluated(tmp_path):
  train_lib.train(frozen('wn,tiny', {'epochs': 1, 'ema_epochs': 0.5}), tmp_path)
  assert (tmp_path / 'summary.json').exists()


# Cross-entropy of one minibatch in the first three steps.
GOLDEN = {
  'plain': (3.032105, 2.694948, 2.560855),
  'wn': (3.032105, 2.594032, 2.633335),
  'bn': (2.747158, 2.893967, 2.623791),
  'mean_bn': (2.961759, 2.754791, 2.569056),
  'wn_mean_bn': (2.961759, 2.690821, 2.533252),
  'plain_released': (3.020852, 2.634409, 2.500201),
}


def step_and_state(config, images, steps_per_epoch):
  """The compiled training step, state → (state, metrics), on random labels; and the first state."""
  labels = jax.random.randint(jax.random.key(2), (len(images),), 0, 10)
  model = train_lib.create_model(config, images.shape[1:], 10, jax.random.key(3))
  if config.variant.parameterization != 'bn':
    train_lib.initialize(model, images, jax.random.key(4), 1.0)
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = train_lib.create_optimizer(config, steps_per_epoch)
  step = functools.partial(
    train_lib.train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    ema_decay=0.0,
    with_diagnostics=False,
  )
  compiled = jax.jit(lambda state: step(state, np.arange(len(images)), images, labels, KEY))
  return compiled, TrainState.create(params, model_state, optimizer, ema=False)


@pytest.mark.parametrize('variant', cifar.VARIANTS)
def test_first_steps_are_the_golden_ones(variant):
  images = jax.random.normal(jax.random.key(1), (64, 16, 16, 1))
  step, state = step_and_state(frozen(f'{variant},tiny'), images, steps_per_epoch=1)
  values = []
  for _ in range(3):
    state, metrics = step(state)
    values.append(float(metrics['train/loss']))
  np.testing.assert_allclose(
    values,
    GOLDEN[variant],
    rtol=1e-4,
    err_msg='the first training steps have changed; if that is intended, update GOLDEN',
  )


def test_one_step_at_full_width():
  """The paper's own size: width 96, batch 100, 32×32 images."""
  config = frozen('wn')
  images = jax.random.normal(jax.random.key(1), (100, 32, 32, 3))
  step, state = step_and_state(config, images, steps_per_epoch=500)
  new, metrics = step(state)
  assert 1 < metrics['train/loss'] < 6
  # Adam's first step moves every parameter by at most the learning rate.
  for old, moved in zip(jax.tree.leaves(state.params), jax.tree.leaves(new.params), strict=True):
    assert 0 < np.abs(moved - old).max() < 1.01 * config.optimizer.learning_rate


def test_evaluation_is_the_mean_over_the_whole_test_set(tmp_path):
  """Against predictions of the restored model, one image after the other in NumPy."""
  config = frozen('wn_mean_bn,tiny', {'run.eval_batch_size': 37})
  train_lib.train(config, tmp_path)
  digits = data.load('digits')
  images = train_lib.preprocessing.prepare(digits, whiten=False, zca_eps=1e-5, upscale=2)[1]
  model = train_lib.create_model(config, (16, 16, 1), 10, jax.random.key(0))
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = train_lib.create_optimizer(config, steps_per_epoch=6)
  state = TrainState.create(params, model_state, optimizer, ema=False)
  checkpoints = Checkpoints(tmp_path / 'checkpoints', keep=2, best_metric='test/error')
  state = checkpoints.restore(state)
  model = nnx.merge(graphdef, state.params, state.model_state)
  logits = np.asarray(model(images, train=False), np.float64)
  log_z = np.log(np.exp(logits).sum(axis=1))
  final = json.loads((tmp_path / 'summary.json').read_text())['final']
  assert final['test/error'] == pytest.approx(np.mean(logits.argmax(1) != digits.test.labels))
  assert final['test/loss'] == pytest.approx(
    np.mean(log_z - logits[np.arange(500), digits.test.labels]), rel=1e-4
  )


def test_data_order_and_noise_depend_on_the_seed(tmp_path):
  losses = []
  for seed in (0, 1):
    train_lib.train(frozen('wn,tiny', {'epochs': 1, 'seed': seed}), tmp_path / str(seed))
    losses.append(read_rows(tmp_path / str(seed) / 'metrics.jsonl')[0]['train/loss'])
  assert losses[0] != losses[1]
