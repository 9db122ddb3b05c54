"""The training loop: steps, metrics, evaluation after each epoch, checkpoints."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.runtime import interrupts, nonfinite
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import Interrupted
from experiments.runtime.metrics import MetricsLog, NoLog, Progress
from experiments.runtime.nonfinite import check_finite
from experiments.training.devices import Agreement
from experiments.training.state import TrainState

Metrics = Mapping[str, jax.Array]
TrainStep = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]
Evaluate = Callable[[TrainState], Mapping[str, float]]


def epoch_order(key: jax.Array, epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
  """Fresh random batches of one epoch: [steps, batch_size] indices; a remainder is left out."""
  order = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
  steps = num_examples // batch_size
  return np.asarray(order[: steps * batch_size]).reshape(steps, batch_size)


def train(
  state: TrainState,
  *,
  train_step: TrainStep,
  evaluate: Evaluate,
  order: Callable[[int], np.ndarray],
  steps_per_epoch: int,
  epochs: int,
  workdir: Path,
  best_metric: str,
  log_every: int,
  checkpoint_every: int,
  keep_checkpoints: int,
) -> TrainState:
  """Trains from the latest checkpoint in `workdir`, or from `state` if there is none.

  Args:
    state: the initial state.
    train_step: (state, batch indices) → (state, metrics); the state's buffers are given away.
    evaluate: state → metrics of one pass over the test set.
    order: epoch → [steps_per_epoch, batch_size] indices of training examples.
    steps_per_epoch: steps in an epoch.
    epochs: length of training.
    workdir: directory of the run.
    best_metric: name of the evaluation metric whose smallest value marks the best checkpoint.
    log_every: steps per row of training metrics, which are means over these steps.
    checkpoint_every: steps between checkpoints, besides the one after each epoch.
    keep_checkpoints: how many of the latest checkpoints to keep.

  Returns:
    The state after the last step.

  Raises:
    UserError: a metric or a parameter is not finite; the checkpoints before it remain. Or what the
      run would go on from is damaged, or the file system refuses something.
    Interrupted: by a signal; there is a checkpoint of the step that it came in.
  """
  checkpoints = Checkpoints(workdir / 'checkpoints', keep=keep_checkpoints, best_metric=best_metric)
  state = checkpoints.restore(state) or state
  step, total = int(state.step), steps_per_epoch * epochs
  if step:
    print(f'going on from step {step} of {total}')
  window = Window(step, checkpoints.notes)
  is_evaluated = not checkpoints.notes.get('evaluate')
  order = functools.lru_cache(maxsize=1)(order)
  log_type = NoLog if jax.process_index() else MetricsLog
  agreed = Agreement()

  def take_step(state: TrainState, step: int) -> tuple[TrainState, Metrics]:
    return train_step(state, order(step // steps_per_epoch)[step % steps_per_epoch])

  with (
    interrupts.deferred() as pending,
    contextlib.closing(checkpoints),
    contextlib.closing(log_type(workdir, window.last_row, evaluated=is_evaluated)) as log,
    contextlib.closing(Progress(run_name(workdir), total, step, epochs)) as progress,
    nonfinite.located(lambda: checkpoints.restore(state), take_step, lambda: state.params),
  ):

    def save(**kwargs: Any) -> None:
      log.sync()  # a checkpoint without its rows could not be gone on from
      checkpoints.save(state, **kwargs)

    def end_epoch() -> None:
      """Evaluates and saves, or, if that is interrupted, saves for another time."""
      try:
        results = evaluate(state)
      except Interrupted as error:
        save(notes={'evaluate': True})
        raise Interrupted(error.signum, f'at step {step}') from error
      check_finite(step, results)
      log.write(step, step / steps_per_epoch, results)
      progress.epoch(step // steps_per_epoch, log.seconds, {**window.means, **results})
      save(metrics=results)

    check_finite(step, {'the sum of the parameters': float(sum_of(state.params))})
    if not is_evaluated:
      end_epoch()
    while step < total:
      state, metrics = take_step(state, step)
      step += 1
      window.add(step, metrics)
      progress.step()

      epoch_is_over = step % steps_per_epoch == 0
      is_due = epoch_is_over or step % checkpoint_every == 0
      stop = agreed(pending.signum)
      if is_due or step % log_every == 0:
        window.end(step)
        log.write(step, step / steps_per_epoch, window.means)
        progress.show(window.means)
      if is_due or stop:
        notes = window.notes()
        check_finite(step, {'the sum of the parameters': float(sum_of(state.params))})
      if epoch_is_over:
        end_epoch()
      elif is_due or stop:
        save(notes=notes)
      if stop:
        raise Interrupted(stop, f'at step {step}')
    if stop := agreed.now(pending.signum):
      raise Interrupted(stop, f'at step {step}')
  return state


class Window:
  """Metrics of the steps since the last row, whose means the next row is to have.

  Those of a step are fetched while the next one runs.

  Args:
    step: that a run begins or goes on from.
    notes: of the checkpoint that it goes on from; with metrics if that is between two rows.

  Attributes:
    last_row: its step.
    means: what it has.

  Raises:
    NotFinite: by all methods, if a metric is not finite.
  """

  def __init__(self, step: int, notes: Mapping[str, Any]):
    self.last_row: int = notes.get('last_row', step)
    self.means: Mapping[str, float] = {}
    self._fetched: list[Mapping[str, float]] = notes.get('window', [])
    self._in_flight: tuple[int, Metrics] | None = None

  def add(self, step: int, metrics: Metrics) -> None:
    """Takes the metrics of a step that has just begun, and waits for those of the step before."""
    self._fetch()
    self._in_flight = step, metrics

  def end(self, step: int) -> None:
    """Computes the means, for a row."""
    self._fetch()
    names = self._fetched[0]
    self.means = {name: float(np.mean([m[name] for m in self._fetched])) for name in names}
    self.last_row, self._fetched = step, []

  def notes(self) -> dict[str, Any]:
    """What a window that goes on from here needs."""
    self._fetch()
    return {'last_row': self.last_row, 'window': self._fetched}

  def _fetch(self) -> None:
    if self._in_flight:
      step, metrics = self._in_flight
      values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
      check_finite(step, values)
      self._fetched.append(values)
      self._in_flight = None


@jax.jit
def sum_of(params: nnx.State) -> jax.Array:
  """Not finite if any parameter is not."""
  return optax.tree.sum(params)


def run_name(workdir: Path) -> str:
  """'wn-scaled/seed0' of 'runs/cifar/wn-scaled/seed0'."""
  return '/'.join(workdir.parts[-2:])


def evaluate_in_batches(
  eval_step: Callable[[jax.Array, jax.Array], Any], num_examples: int, batch_size: int
) -> Any:
  """Sums `eval_step(indices, weights)` over exactly one pass of a split.

  The last batch is filled up with examples of weight 0, so that every batch has the same shape.

  Args:
    eval_step: ([B] indices, [B] float32 weights 0 or 1) → pytree of sums over the batch.
    num_examples: size of the split.
    batch_size: B.

  Returns:
    The pytree of sums, as NumPy arrays.

  Raises:
    Interrupted: by a signal, in a training loop.
  """
  sums = None
  agreed = Agreement()
  for start in range(0, num_examples, batch_size):
    if stop := agreed(interrupts.signum()):
      raise Interrupted(stop)
    indices = np.arange(start, start + batch_size)
    weights = (indices < num_examples).astype(np.float32)
    batch = eval_step(np.minimum(indices, num_examples - 1), weights)
    sums = batch if sums is None else jax.tree.map(np.add, sums, jax.device_get(batch))
  return jax.device_get(sums)
