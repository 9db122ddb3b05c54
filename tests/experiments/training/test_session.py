"""The loop on a model of one number: order, windows, evaluation, checkpoints, resuming, NaN."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.runtime import metrics
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import UserError
from experiments.training import devices, evaluation, session
from experiments.training.state import TrainState
from tests import loops

STEPS_PER_EPOCH, EPOCHS = 5, 3
OPTIMIZER = optax.sgd(0.1)


def initial_state(ema=False):
  params = nnx.State({'w': nnx.Param(jnp.array(1.0))})
  return TrainState.create(params, nnx.State({}), OPTIMIZER, ema=ema)


@jax.jit
def train_step(state, indices):
  gradients = jax.tree.map(lambda w: w * jnp.mean(indices), state.params)
  loss = state.params['w'][...] + state.step
  return state.apply_gradients(gradients, state.model_state, OPTIMIZER), {'train/loss': loss}


def run(workdir, train_step=train_step, state=None, **changes):
  settings = dict(
    train_step=train_step,
    evaluate=lambda state: {'test/error': float(state.params['w'][...])},
    order=lambda epoch: session.epoch_batches(jax.random.key(0), epoch, 10, 2) / 10,
    steps_per_epoch=STEPS_PER_EPOCH,
    epochs=EPOCHS,
    workdir=workdir,
    best_metric='test/error',
    log_every=2,
    checkpoint_every=3,
    keep_checkpoints=2,
  )
  workdir.mkdir(exist_ok=True)
  return loops.train(state or initial_state(), **{**settings, **changes})


def rows(workdir):
  return [
    {k: v for k, v in row.items() if k != 'seconds'}
    for row in metrics.read_rows(workdir / 'metrics.jsonl')
  ]


def stop_at(step_to_stop_at):
  """A training step that is interrupted, as by a signal, before the given step."""

  def step(state, indices):
    if int(state.step) == step_to_stop_at:
      raise KeyboardInterrupt
    return train_step(state, indices)

  return step


def test_rows_of_a_run(tmp_path):
  run(tmp_path / 'run')
  written = rows(tmp_path / 'run')
  assert [row['step'] for row in written if 'train/loss' in row] == [
    2, 3, 4, 5, 6, 8, 9, 10, 12, 14, 15,
  ]  # fmt: skip
  assert [row['epoch'] for row in written if 'test/error' in row] == [1, 2, 3]
  seconds = [row['seconds'] for row in metrics.read_rows(tmp_path / 'run' / 'metrics.jsonl')]
  assert seconds == sorted(seconds)


def test_a_row_is_the_mean_of_the_steps_since_the_last(tmp_path):
  losses = iter([1.0, 3.0, 10.0])
  step = lambda state, indices: (
    train_step(state, indices)[0], {'train/loss': jnp.array(next(losses))}
  )  # fmt: skip
  run(tmp_path / 'run', step, steps_per_epoch=3, epochs=1, order=lambda e: np.ones((3, 2)))
  assert [row['train/loss'] for row in rows(tmp_path / 'run') if 'train/loss' in row] == [2.0, 10.0]


@pytest.mark.parametrize('stop', [0, 1, 3, 4, 5, 7, 10, 14])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, stop):
  expected = run(tmp_path / 'whole')
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'parts', stop_at(stop))
  state = run(tmp_path / 'parts')
  assert rows(tmp_path / 'parts') == rows(tmp_path / 'whole')
  jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_half_written_last_row_is_dropped_on_resuming(tmp_path):
  run(tmp_path / 'whole')
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'parts', stop_at(8))
  with (tmp_path / 'parts' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "epo')
  run(tmp_path / 'parts')
  assert rows(tmp_path / 'parts') == rows(tmp_path / 'whole')


def test_latest_and_best_checkpoints_are_kept(tmp_path):
  errors = iter([0.1, 0.5, 0.9])
  run(tmp_path / 'run', evaluate=lambda state: {'test/error': next(errors)})
  kept = {int(path.name) for path in (tmp_path / 'run' / 'checkpoints').iterdir()}
  assert kept == {5, 12, 15}  # the best, after the first epoch, and the latest two


def test_the_best_checkpoint_can_be_the_one_with_the_largest_value(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1, best_metric='eval/score', best=max)
  for step, score in ((1, 3.0), (2, 7.0), (3, 5.0), (4, None)):
    state = dataclasses.replace(initial_state(), step=jnp.array(step))
    checkpoints.save(state, None if score is None else {'eval/score': score})
  checkpoints.close()
  assert {int(path.name) for path in tmp_path.iterdir()} == {2, 4}


def test_training_stops_at_an_evaluation_that_is_not_finite(tmp_path):
  with pytest.raises(UserError, match='test/error is nan at step 5'):
    run(tmp_path / 'run', evaluate=lambda state: {'test/error': np.nan})
  assert not any('test/error' in row for row in rows(tmp_path / 'run'))


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
  def step(state, indices):
    bad = int(state.step) == 4
    return train_step(state, indices * np.nan if bad else indices)

  with pytest.raises(UserError, match='parameters is nan at step 5'):
    run(tmp_path / 'run', step, evaluate=lambda state: {'test/error': 0.9})
  checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints', keep=2, best_metric='test/error')
  assert int(checkpoints.restore(initial_state()).step) == 3


@pytest.mark.parametrize('damage', ['garbage\n', '{}\n', '5\n'])
def test_damaged_metrics_are_refused_and_left_alone(tmp_path, damage):
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'run', stop_at(10))
  path = tmp_path / 'run' / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join([lines[0], damage, *lines[2:]]))
  content = path.read_bytes()
  with pytest.raises(UserError, match=r'metrics\.jsonl, line 2'):
    run(tmp_path / 'run')
  assert path.read_bytes() == content


def test_missing_metrics_are_refused(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'run', stop_at(10))
  (tmp_path / 'run' / 'metrics.jsonl').unlink()
  with pytest.raises(UserError, match='lacks the rows up to step'):
    run(tmp_path / 'run')


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_training_stops_at_a_metric_that_is_not_finite(tmp_path, value):
  def step(state, indices):
    bad = int(state.step) == 7
    state, values = train_step(state, indices)
    return state, {'train/loss': jnp.array(value)} if bad else values

  with pytest.raises(UserError, match=rf'train/loss is {value} at step 8'):
    run(tmp_path / 'run', step)
  checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints', keep=2, best_metric='test/error')
  assert int(checkpoints.restore(initial_state()).step) == 6
  assert all(np.isfinite(row.get('train/loss', 0)) for row in rows(tmp_path / 'run'))


def test_order_is_a_fresh_permutation_for_each_epoch():
  key = jax.random.key(3)
  first, second = (session.epoch_batches(key, epoch, 103, 10) for epoch in (0, 1))
  assert first.shape == (10, 10)
  assert len(set(first.ravel())) == 100 and first.max() < 103
  assert (first != second).any()
  np.testing.assert_array_equal(first, session.epoch_batches(key, 0, 103, 10))


@pytest.mark.parametrize('batch_size', [1, 3, 10, 64])
def test_evaluation_is_exactly_one_pass(batch_size):
  values = np.random.default_rng(0).normal(size=10)

  def step(state, indices, weights, values):
    return {'sum': jnp.sum(values[indices] * weights), 'n': jnp.sum(weights)}

  sums = evaluation.sum_over(
    step,
    None,
    (jnp.asarray(values),),
    num_examples=10,
    batch_size=batch_size,
    mesh=devices.data_mesh(1),
  )
  assert sums['n'] == 10
  assert sums['sum'] == pytest.approx(values.sum())


def test_moving_average_of_the_parameters():
  state = initial_state(ema=True)
  gradients = jax.tree.map(jnp.ones_like, state.params)
  values = [0.9, 0.8, 0.7]  # of w after each step
  for t, w in enumerate(values, start=1):
    state = state.apply_gradients(gradients, state.model_state, OPTIMIZER, ema_decay=0.9)
    weights = 0.9 ** np.arange(t)[::-1]  # the initial value has none
    average = np.average(values[:t], weights=weights)
    np.testing.assert_allclose(state.params['w'][...], w, rtol=1e-6)
    np.testing.assert_allclose(state.eval_params['w'][...], average, rtol=1e-6)
  assert int(state.step) == 3


def test_without_moving_average_the_parameters_are_evaluated():
  state = initial_state()
  assert state.ema_params is None and state.eval_params is state.params


def test_rows_are_json_objects_with_step_epoch_and_seconds(tmp_path):
  log = metrics.MetricsLog(tmp_path)
  log.write(3, 0.5, {'train/loss': 1.25})
  log.close()
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  row = json.loads(line)
  assert row.pop('seconds') >= 0
  assert row == {'step': 3, 'epoch': 0.5, 'train/loss': 1.25}


def test_seconds_go_on_after_resuming(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "epoch": 1, "seconds": 100.0}\n')
  log = metrics.MetricsLog(tmp_path, resume_step=1)
  assert 100 <= log.seconds < 200
  log.close()
