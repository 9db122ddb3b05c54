"""A training run as its loop sees it: steps, rows of metrics, checkpoints, signals.

  with session.open(config, workdir, description, steps_per_epoch, best='test/error') as run:
    state = run.restore(state)
    for epoch in run.epochs():
      for indices in run.steps(session.epoch_batches(key, epoch, num_examples, batch_size)):
        state, metrics = train_step(state, indices)
        run.step_done(state, metrics)
      run.epoch_done(state, evaluate(state))

The loop asks; the session never calls back. A run that was interrupted, or killed, resumes from its
latest checkpoint and gives the rows and the state of an uninterrupted one (docs/RELIABILITY.md).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import config_dict

from experiments.runtime import interrupts, nonfinite, settings
from experiments.runtime import metrics as metrics_lib
from experiments.runtime import workdir as workdir_lib
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import Interrupted
from experiments.runtime.multiprocess import Agreement
from experiments.runtime.nonfinite import check_finite
from experiments.runtime.window import Window

Batch = TypeVar('Batch')
State = Any  # a pytree with a `step` and `params`; one type throughout a run


@contextlib.contextmanager
def open(
  config: config_dict.FrozenConfigDict,
  workdir: Path,
  data: Mapping[str, Any],
  steps_per_epoch: int,
  *,
  best: str,
  mode: Callable[..., Any] = min,
  stride: int = 1,
) -> Iterator['Session']:
  """Prints protocol and devices, locks `workdir`, writes the config and the data's description.

  Args:
    config: of the run; the session reads `config.epochs` and `config.run`.
    workdir: created if needed.
    data: description of the data, with `name` and `digest`.
    steps_per_epoch: how much an epoch adds to the step.
    best: evaluation metric that marks the best checkpoint.
    mode: `min` or `max`: its best value.
    stride: how much one turn of the loop adds to the step.

  Raises:
    UserError: the directory belongs to another run, or another process trains in it.
    Interrupted: a signal arrived; there is a checkpoint of that step.
  """
  print(settings.describe(config), settings.describe_data(data), sep='\n')
  print(f'devices: {jax.device_count()} × {jax.devices()[0].device_kind}')
  run = Session(workdir, config, steps_per_epoch, best=best, mode=mode, stride=stride)
  with workdir_lib.prepared(workdir, config, data), closing(run):
    yield run


@contextlib.contextmanager
def closing(run: 'Session') -> Iterator['Session']:
  """Closes the files of a session. After an interrupted evaluation, saves the state first."""
  with run.resources:
    try:
      yield run
    except Interrupted as error:
      run.save_unevaluated()
      raise Interrupted(error.signum, f'at step {run.step}') from error


class Session:
  """A run between its first and its last step. Use `open`, which also locks the directory.

  Attributes:
    step: number of steps taken, with the one in progress.
    notes: JSON values saved with the restored checkpoint.
    resources: open files.
  """

  def __init__(
    self,
    workdir: Path,
    config: config_dict.FrozenConfigDict,
    steps_per_epoch: int,
    *,
    best: str,
    mode: Callable[..., Any] = min,
    stride: int = 1,
  ):
    self.step = 0
    self.notes: Mapping[str, Any] = {}
    self.resources = contextlib.ExitStack()
    self._workdir, self._config = workdir, config
    self._steps_per_epoch, self._stride = steps_per_epoch, stride
    self._best, self._mode = best, mode
    self._total = config.epochs * steps_per_epoch
    self._epoch, self._agreed = 0, Agreement()
    self._stop: int | None = None  # number of a signal
    self._unevaluated: State | None = None  # at the end of an epoch, until it is evaluated

  def restore(self, state: State) -> State:
    """The state of the latest checkpoint, or `state` if there is none."""
    self._checkpoints = Checkpoints(
      self._workdir / 'checkpoints',
      keep=self._config.run.keep_checkpoints,
      best_metric=self._best,
      best=self._mode,
    )
    self.resources.enter_context(contextlib.closing(self._checkpoints))
    state = self._checkpoints.restore(state) or state
    self.step, self.notes = int(state.step), self._checkpoints.notes
    nonfinite.check_parameters(self.step, state.params)
    if self.step:
      print(f'resuming at step {self.step} of {self._total}')
    return state

  def epochs(self) -> Iterator[int]:
    """The epochs, from 0, that are not over or not yet evaluated. Until the end, signals wait."""
    is_evaluated = not self.notes.get('evaluate')
    self._last_row: int = self.notes.get('last_row', self.step)
    self._last_metrics: Mapping[str, float] = {}
    self._window = Window(self.notes.get('window', []))
    if jax.config.jax_debug_nans:  # JAX 0.10 forgets it at the end of a `debug_nans(False)`
      self.resources.enter_context(jax.debug_nans(True))
    self._pending = self.resources.enter_context(interrupts.deferred())
    log_type = metrics_lib.NoLog if jax.process_index() else metrics_lib.MetricsLog
    log = log_type(self._workdir, self._last_row, evaluated=is_evaluated)
    self._log = self.resources.enter_context(contextlib.closing(log))
    progress = metrics_lib.Progress(self._workdir, self._total, self.step, self._config.epochs)
    self._progress = self.resources.enter_context(contextlib.closing(progress))
    first = self.step // self._steps_per_epoch
    for epoch in range(first if is_evaluated else first - 1, self._config.epochs):
      self._epoch = epoch
      yield epoch
    if stop := self._agreed.now(self._pending.signum):
      raise Interrupted(stop)
    self.resources.close()

  def steps(self, batches: Sequence[Batch]) -> Iterator[Batch]:
    """Those batches of the epoch that are still to be taken, one a step."""
    done = self.step - self._epoch * self._steps_per_epoch
    for batch in batches[done // self._stride :]:
      self.step += self._stride
      yield batch
      self._progress.step(self._stride)

  def step_done(self, state: State, metrics: Mapping[str, jax.Array]) -> None:
    """After each step: logs and saves when due. The metrics are fetched during the next step.

    Raises:
      UserError: a number is not finite, or a file cannot be written.
      Interrupted: a signal arrived; the state is saved.
    """
    with nonfinite.described(state.params):
      self._window.add(self.step, metrics)
      if self.should_log():
        self.log(state, self._window.means())
      if self.should_save():
        self.save(state, {'window': self._window.notes()})
    if self._is_end_of_epoch():
      self.before_evaluation(state)

  def epoch_done(self, state: State, results: Mapping[str, float]) -> None:
    """After the evaluation of an epoch: logs the results and saves. Raises as `step_done`."""
    with nonfinite.described(state.params):
      check_finite(self.step, results)
    epoch = self.step / self._steps_per_epoch
    self._log.write(self.step, epoch, results)
    self._progress.epoch(round(epoch), self._log.seconds, {**self._last_metrics, **results})
    self._unevaluated = None
    self.save(state, metrics=results)

  def should_log(self) -> bool:
    """Whether a row of training metrics is due."""
    return self._is_due() or self.step % self._config.run.log_every == 0

  def log(self, state: State, metrics: Mapping[str, float]) -> None:
    """Writes a row of training metrics; `step_done` does so when a row is due."""
    with nonfinite.described(state.params):
      check_finite(self.step, metrics)
    self._log.write(self.step, self.step / self._steps_per_epoch, metrics)
    self._progress.show(metrics)
    self._last_row, self._last_metrics = self.step, metrics

  def should_save(self) -> bool:
    """Whether to `save` after this step. Ask once a step; `epoch_done` saves without asking."""
    self._stop = self._agreed(self._pending.signum)
    return not self._is_end_of_epoch() and (self._is_due() or bool(self._stop))

  def save(
    self,
    state: State,
    notes: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Writes a checkpoint, then ends the run if a signal has arrived. Raises as `step_done`.

    Args:
      state: to save.
      notes: JSON values, for `notes` of the resumed run.
      metrics: of an evaluation of this state.
    """
    nonfinite.check_parameters(self.step, state.params)
    self.sync()  # a checkpoint is of no use without the rows before it
    self._checkpoints.save(state, metrics, {'last_row': self._last_row, **(notes or {})})
    if self._stop:
      raise Interrupted(self._stop)

  def sync(self) -> None:
    """Puts the rows on the disk. Raises a `UserError` if the directory is another run's by now."""
    self._log.sync()

  def before_evaluation(self, state: State) -> None:
    """At the end of an epoch: a signal that interrupts the evaluation lets this state be saved."""
    nonfinite.check_parameters(self.step, state.params)
    self._unevaluated = state

  def save_unevaluated(self) -> None:
    """Saves what `before_evaluation` kept; the resumed run begins with the evaluation."""
    if self._unevaluated is not None:
      self._stop = None
      self.save(self._unevaluated, {'evaluate': True})

  def write_summary(self, num_params: int) -> dict[str, Any]:
    """Writes `summary.json`, which marks the run as finished, and returns its content.

    The pictures in the directory become part of TensorBoard's events.
    """
    metrics_lib.write_pictures(self._workdir, self.step)
    return workdir_lib.write_summary(
      self._workdir, self._config, best_metric=self._best, best=self._mode, num_params=num_params
    )

  def _is_end_of_epoch(self) -> bool:
    return self.step % self._steps_per_epoch == 0

  def _is_due(self) -> bool:
    return self._is_end_of_epoch() or self.step % self._config.run.checkpoint_every == 0


def epoch_batches(key: jax.Array, epoch: int, num_examples: int, batch_size: int) -> np.ndarray:
  """Indices [steps, batch_size] of one epoch in a fresh random order; a remainder is left out."""
  order = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
  steps = num_examples // batch_size
  return np.asarray(order[: steps * batch_size]).reshape(steps, batch_size)
