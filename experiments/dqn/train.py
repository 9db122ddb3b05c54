"""Trains the deep Q-network of §5.4."""

import json
from pathlib import Path

from ml_collections import config_dict

from experiments.dqn import environments, evaluation, pictures
from experiments.dqn.actor_learner import ActorLearner
from experiments.dqn.environments import FRAME_SKIP, Purpose
from experiments.dqn.journal import Journal
from experiments.dqn.replay import Replay
from experiments.dqn.validate import validate
from experiments.runtime.workdir import is_done
from experiments.training import session


def train(config: config_dict.FrozenConfigDict, workdir: Path, data_dir: str | None = None) -> None:
  """Trains an agent in `workdir`, or resumes; writes metrics, checkpoints and pictures there.

  Raises:
    UserError: the config or the directory cannot be used.
  """
  del data_dir  # the games come with the Arcade Learning Environment
  validate(config)
  if is_done(workdir, config):
    return
  check_replay(config, workdir)
  run_experiment(config, workdir)


def run_experiment(config: config_dict.FrozenConfigDict, workdir: Path) -> None:
  """The experiment, from the games to the pictures. A turn of the loop steps every game once."""
  num_envs = config.env.num_envs
  with session.open(
    config,
    workdir,
    environments.description(config.variant.game),
    config.steps_per_epoch,
    best=evaluation.SCORE,
    mode=max,
    stride=num_envs,
  ) as run:
    learner = ActorLearner(config)
    journal = create_journal(config, workdir, learner.replay)
    print(f'{learner.num_params:,} parameters')
    learner.state = run.restore(learner.state)
    if run.step:
      learner.games.restore(journal.restore(run.step))
    learner.start_window(run.notes.get('window'))

    for _ in run.epochs():
      for _ in run.steps(range(config.steps_per_epoch // num_envs)):
        learner.step()
        if run.should_log():
          run.log(learner.state, learner.take_metrics())
        if run.should_save():
          run.sync()  # before the journal: the directory may be another run's by now
          journal.save(learner.games.save())
          run.save(learner.state, {'window': learner.window()})
          learner.start_window()
      run.before_evaluation(learner.state)
      run.sync()
      journal.save(learner.games.save())
      values = config.evaluation
      env_seeds = environments.seeds(
        config.seed, run.step, Purpose.EVALUATION, count=values.num_envs
      )
      returns = evaluation.play(learner.eval_policy(), config, values.steps, env_seeds)
      frames = float(run.step * FRAME_SKIP)
      run.epoch_done(learner.state, {'frames': frames, **evaluation.metrics(returns)})
      learner.start_window()

    pictures.write(workdir, config, learner.eval_policy())
    summary = run.write_summary(learner.num_params)
    final, best = summary['final'][evaluation.SCORE], summary['best'][evaluation.SCORE]
    print(f'score {final:.1f}, best {best:.1f}; results are in {workdir}')
    print(f'{workdir / "replay"} is only needed to train longer with a higher --config.epochs')


def check_replay(config: config_dict.FrozenConfigDict, workdir: Path) -> None:
  """Checks that a finished run that is to train longer still has its replay memory.

  Raises:
    UserError: a file of it is missing or damaged.
  """
  if (workdir / 'summary.json').exists():
    summary = json.loads((workdir / 'summary.json').read_text())
    replay = Replay(config.replay.capacity // config.env.num_envs, config.env.num_envs)
    create_journal(config, workdir, replay).check(
      summary['config']['epochs'] * config.steps_per_epoch
    )


def create_journal(config: config_dict.FrozenConfigDict, workdir: Path, replay: Replay) -> Journal:
  """The journal of the replay memory in `workdir`."""
  return Journal(
    workdir / 'replay', replay, num_envs=config.env.num_envs, keep=config.run.keep_checkpoints
  )
