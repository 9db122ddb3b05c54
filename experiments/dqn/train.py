"""Trains the deep Q-network of §5.4."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import config_dict

from experiments.dqn import environments, evaluation, pictures
from experiments.dqn.actor_learner import ActorLearner
from experiments.dqn.agent import AgentState
from experiments.dqn.environments import FRAME_SKIP, Arrays, Purpose, seeds
from experiments.dqn.journal import Journal
from experiments.dqn.replay import Replay
from experiments.dqn.validate import validate
from experiments.runtime import interrupts, nonfinite
from experiments.runtime import workdir as workdir_lib
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import Interrupted
from experiments.runtime.metrics import MetricsLog, Progress
from experiments.runtime.nonfinite import check_finite
from experiments.training import start
from experiments.training.loop import run_name, sum_of

BEST_METRIC = 'eval/score'


def train(config: config_dict.FrozenConfigDict, workdir: Path, data_dir: str | None = None) -> None:
  """Runs, or goes on with, the experiment in `workdir`; writes metrics, checkpoints and pictures.

  Args:
    config: of the run.
    workdir: its directory.
    data_dir: not used: the games come with the Arcade Learning Environment.

  Raises:
    UserError: the config or the directory cannot be used; see the message.
  """
  del data_dir
  start.on_games(
    config,
    workdir,
    validate=validate,
    describe_data=lambda config: environments.description(config.variant.game),
    check_workdir=check_replay,
    run_experiment=run_experiment,
  )


def run_experiment(config: config_dict.FrozenConfigDict, workdir: Path) -> None:
  """The experiment itself, for a valid config and a directory of its own."""
  agent = ActorLearner(config)
  print(f'{agent.num_params:,} parameters')

  def evaluate() -> dict[str, float]:
    values = config.evaluation
    env_seeds = seeds(config.seed, agent.steps, Purpose.EVALUATION, count=values.num_envs)
    return eval_metrics(evaluation.play(agent.eval_policy(), config, values.steps, env_seeds))

  train_and_evaluate(agent, evaluate, config, workdir)
  pictures.write(workdir, config, agent.eval_policy())
  summary = workdir_lib.write_summary(
    workdir, config, best_metric=BEST_METRIC, num_params=agent.num_params, best=max
  )
  final, best = summary['final'][BEST_METRIC], summary['best'][BEST_METRIC]
  print(f'score {final:.1f}, at best {best:.1f}; all of it is in {workdir}')
  print(f'{workdir / "replay"} is only for training it longer, with a higher --config.epochs')


def check_replay(config: config_dict.FrozenConfigDict, workdir: Path) -> None:
  """Checks that a finished run, which is to be trained longer, still has its replay memory.

  Raises:
    UserError: it has not.
  """
  if (workdir / 'summary.json').exists():
    summary = json.loads((workdir / 'summary.json').read_text())
    replay = Replay(config.replay.capacity // config.env.num_envs, config.env.num_envs)
    create_journal(config, workdir, replay).check(
      summary['config']['epochs'] * config.steps_per_epoch
    )


def create_journal(config: config_dict.FrozenConfigDict, workdir: Path, replay: Replay) -> Journal:
  """The files of a run's replay memory."""
  return Journal(
    workdir / 'replay', replay, num_envs=config.env.num_envs, keep=config.run.keep_checkpoints
  )


def train_and_evaluate(
  agent: ActorLearner,
  evaluate: Callable[[], dict[str, float]],
  config: config_dict.FrozenConfigDict,
  workdir: Path,
) -> None:
  """Trains to the end, from the latest checkpoint in `workdir` if there is one.

  Args:
    agent: before its first step.
    evaluate: () → metrics of the present network.
    config: of the run.
    workdir: its directory.

  Raises:
    UserError: a metric or a parameter is not finite; the checkpoints before it remain. Or what the
      run would go on from is damaged.
    Interrupted: by a signal; there is a checkpoint of the step that it came in.
  """
  total, num_envs = config.epochs * config.steps_per_epoch, config.env.num_envs
  checkpoints = Checkpoints(
    workdir / 'checkpoints',
    keep=config.run.keep_checkpoints,
    best_metric=BEST_METRIC,
    best=max,
  )
  journal = create_journal(config, workdir, agent.replay)

  def restore() -> AgentState | None:
    """Takes the agent back to the latest checkpoint, if there is one."""
    if (state := checkpoints.restore(agent.state)) is not None:
      agent.state = state
      agent.games.restore(journal.restore(agent.steps))
    return state

  def take_step(*_: Any) -> tuple[AgentState, dict[str, float]]:
    agent.step()
    return agent.state, agent.take_metrics()

  if restore() is not None:
    print(f'going on from agent step {agent.steps:,} of {total:,}')
  last_row: int = checkpoints.notes.get('last_row', agent.steps)
  is_evaluated = not checkpoints.notes.get('evaluate')

  with (
    interrupts.deferred() as pending,
    contextlib.closing(checkpoints),
    contextlib.closing(MetricsLog(workdir, last_row, evaluated=is_evaluated)) as log,
    contextlib.closing(Progress(run_name(workdir), total, agent.steps, config.epochs)) as progress,
    nonfinite.located(restore, take_step, lambda: agent.state.params, stride=num_envs),
  ):

    def check_parameters() -> None:
      params = agent.state.train.params
      check_finite(agent.steps, {'the sum of the parameters': float(sum_of(params))})

    def save(games: Arrays, **kwargs: Any) -> None:
      state = agent.state
      check_parameters()
      log.sync()  # a checkpoint without its rows could not be gone on from
      journal.save(games)
      checkpoints.save(state, **kwargs)

    def end_epoch(metrics: Mapping[str, float]) -> None:
      """Evaluates and saves, or, if that is interrupted, saves for another time."""
      try:
        results = evaluate()
      except Interrupted as error:
        save(agent.games.save(), notes={'evaluate': True})
        raise Interrupted(error.signum, f'at agent step {agent.steps:,}') from error
      check_finite(agent.steps, results)
      epoch = agent.steps // config.steps_per_epoch
      log.write(agent.steps, float(epoch), {'frames': float(agent.steps * FRAME_SKIP), **results})
      progress.epoch(epoch, log.seconds, {**metrics, **results})
      save(agent.games.save(), metrics=results)

    check_parameters()
    if not is_evaluated:
      end_epoch({})
    agent.start_window(checkpoints.notes.get('window'))
    while agent.steps < total:
      agent.step()
      progress.step(num_envs)
      epoch_is_over = agent.steps % config.steps_per_epoch == 0
      is_due = epoch_is_over or agent.steps % config.run.checkpoint_every == 0
      stop = pending.signum  # looked at once: it can change at any moment
      if is_due or agent.steps % config.run.log_every == 0:
        last_row, metrics = agent.steps, agent.take_metrics()
        check_finite(agent.steps, metrics)
        log.write(agent.steps, agent.steps / config.steps_per_epoch, metrics)
        progress.show(metrics)
      if epoch_is_over:
        end_epoch(metrics)
        agent.start_window()
      elif is_due:
        save(agent.games.save())
        agent.start_window()
      elif stop:
        notes = {'last_row': last_row, 'window': agent.window()}
        save(agent.games.save(interrupted=True), notes=notes)
      if stop:
        raise Interrupted(stop, f'at agent step {agent.steps:,}')


def eval_metrics(returns: Sequence[float]) -> dict[str, float]:
  """Mean return, its standard error (0 for one episode) and how many episodes there were."""
  count = len(returns)
  error = float(np.std(returns, ddof=1) / np.sqrt(count)) if count > 1 else 0.0
  return {
    'eval/score': float(np.mean(returns)),
    'eval/standard_error': error,
    'eval/episodes': float(count),
  }
