"""The loop of an experiment, for tests that need no more than a step of their own."""

from ml_collections import config_dict

from experiments.training import session


def train(
  state,
  *,
  train_step,
  evaluate,
  order,
  steps_per_epoch,
  epochs,
  workdir,
  best_metric,
  **run_config,
):
  """Trains in `workdir`, which exists; returns the last state."""
  config = config_dict.FrozenConfigDict({'epochs': epochs, 'run': run_config})
  run = session.Session(workdir, config, steps_per_epoch, best=best_metric)
  with session.closing(run):
    state = run.restore(state)
    for epoch in run.epochs():
      for indices in run.steps(order(epoch)):
        state, metrics = train_step(state, indices)
        run.step_done(state, metrics)
      run.epoch_done(state, evaluate(state))
  return state


class Stopped(Exception):
  """Raised by `stop_at`."""


def stop_at(step, monkeypatch):
  """Has every session fail at a step, before it is logged; until `monkeypatch.undo()`."""
  step_done = session.Session.step_done

  def stopping(run, *args):
    if run.step == step:
      raise Stopped
    step_done(run, *args)

  monkeypatch.setattr(session.Session, 'step_done', stopping)
