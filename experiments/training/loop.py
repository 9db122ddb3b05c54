"""The training loop: steps, metrics, evaluation after each epoch, checkpoints."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.training import interrupts, nonfinite
from experiments.training.checkpoints import Checkpoints
from experiments.training.errors import Interrupted, UserError
from experiments.training.metrics import MetricsLog, Progress
from experiments.training.nonfinite import NotFinite, check_finite
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
  notes = checkpoints.notes
  step, total = int(state.step), steps_per_epoch * epochs
  if step:
    print(f'going on from step {step} of {total}')
  # Metrics of the steps since the last row: after an interruption there are some.
  last_row: int = notes.get('last_row', step)
  window: list[Mapping[str, float]] = notes.get('window', [])
  in_flight: tuple[int, Metrics] | None = None

  with contextlib.ExitStack() as stack:
    pending = stack.enter_context(interrupts.deferred())
    stack.callback(checkpoints.close)
    log = stack.enter_context(contextlib.closing(MetricsLog(workdir, resume_step=last_row)))
    progress = stack.enter_context(
      contextlib.closing(Progress(run_name(workdir), total, step, epochs))
    )

    def save_checkpoint(**kwargs: Any) -> None:
      log.sync()  # a checkpoint without its rows could not be gone on from
      checkpoints.save(state, **kwargs)

    def end_epoch(means: Mapping[str, float]) -> None:
      """Evaluates and saves, or, if that is interrupted, saves for another time."""
      try:
        results = evaluate(state)
      except Interrupted as error:
        save_checkpoint(notes={'evaluate': True})
        raise Interrupted(error.signum, f'at step {step}') from error
      check_finite(step, results)
      log.write(step, step / steps_per_epoch, results)
      progress.epoch(step // steps_per_epoch, log.seconds, {**means, **results})
      save_checkpoint(metrics=results)

    try:
      if notes.get('evaluate'):
        end_epoch({})
      while step < total:
        batches = order(step // steps_per_epoch)
        for indices in batches[step % steps_per_epoch :]:
          state, metrics = train_step(state, indices)
          step += 1
          # The metrics of the step before are fetched while this one runs.
          if in_flight:
            window.append(_fetch(*in_flight))
          in_flight = (step, metrics)
          progress.step()

          epoch_is_over = step % steps_per_epoch == 0
          save = epoch_is_over or step % checkpoint_every == 0
          stop = pending.signum  # looked at once: it can change at any moment
          if save or step % log_every == 0 or stop:
            window.append(_fetch(*in_flight))
            in_flight = None
          if save or step % log_every == 0:
            means = {name: float(np.mean([m[name] for m in window])) for name in window[0]}
            last_row, window = step, []
            log.write(step, step / steps_per_epoch, means)
            progress.show(means)
          if save or stop:
            check_finite(step, {'the sum of the parameters': float(sum_of(state.params))})
          if epoch_is_over:
            end_epoch(means)
          elif save:
            save_checkpoint()
          elif stop:
            save_checkpoint(notes={'last_row': last_row, 'window': window})
          if stop:
            raise Interrupted(stop, f'at step {step}')
    except NotFinite as error:
      take_step = lambda state, step: train_step(
        state, order(step // steps_per_epoch)[step % steps_per_epoch]
      )
      raise error.at(_first_not_finite(checkpoints, state, take_step, error.step)) from error
  return state


def _first_not_finite(
  checkpoints: Checkpoints,
  state: TrainState,
  train_step: Callable[[TrainState, int], tuple[TrainState, Metrics]],
  last_step: int,
) -> str:
  """What was not finite first, found by going on from the latest checkpoint once more."""
  found = None
  if jax.process_count() == 1:  # else one might give up before the others
    with contextlib.suppress(UserError):
      if (start := checkpoints.restore(state)) is not None:
        found = nonfinite.trace(start, train_step, last_step)
  return found or nonfinite.describe(state.params)


def _fetch(step: int, metrics: Metrics) -> Mapping[str, float]:
  """Waits for the metrics of a step and checks them."""
  values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
  check_finite(step, values)
  return values


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
  for start in range(0, num_examples, batch_size):
    interrupts.check()
    indices = np.arange(start, start + batch_size)
    weights = (indices < num_examples).astype(np.float32)
    batch = eval_step(np.minimum(indices, num_examples - 1), weights)
    sums = batch if sums is None else jax.tree.map(np.add, sums, jax.device_get(batch))
  return jax.device_get(sums)
