"""The start of an experiment: everything is checked before anything is written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict

from experiments.runtime import settings
from experiments.runtime import workdir as workdir_lib
from experiments.training import data, devices

Validate = Callable[..., None]
Experiment = Callable[
  [config_dict.FrozenConfigDict, Path, data.Dataset, jax.sharding.Mesh],
  None,
]


def on_images(
  config: config_dict.FrozenConfigDict,
  workdir: Path,
  data_dir: str | None,
  *,
  validate: Validate,
  run_experiment: Experiment,
) -> None:
  """Runs, or goes on with, an experiment on one of the image data sets, unless it is finished.

  Args:
    config: of the run.
    workdir: its directory.
    data_dir: folder of the data sets; None: see `data.load`.
    validate: checks the config, and the config with a data set.
    run_experiment: (config, workdir, data set, mesh) → None, in the directory, which is locked.

  Raises:
    UserError: the config, the data or the directory cannot be used; see the message.
  """
  validate(config)
  if _is_finished(config, workdir):
    return
  mesh = devices.data_mesh(config.batch_size)
  dataset = data.load(dataset_name(config), data_dir)
  validate(config, dataset)
  workdir_lib.check_data(workdir, dataset.description)
  if jax.process_index():  # the first one holds the directory for all
    run_experiment(config, workdir, dataset, mesh)
    return
  print(_about(dataset.description))
  with workdir_lib.prepared(workdir, config, dataset.description):
    run_experiment(config, workdir, dataset, mesh)


def on_games(
  config: config_dict.FrozenConfigDict,
  workdir: Path,
  *,
  validate: Validate,
  describe_data: Callable[[config_dict.FrozenConfigDict], Mapping[str, Any]],
  check_workdir: Callable[[config_dict.FrozenConfigDict, Path], None],
  run_experiment: Callable[[config_dict.FrozenConfigDict, Path], None],
) -> None:
  """Runs, or goes on with, an experiment that makes its own data, unless it is finished.

  Args:
    config: of the run.
    workdir: its directory.
    validate: checks the config.
    describe_data: says what the data are made of; see `workdir_lib.check_data`.
    check_workdir: checks the directory of a run that is not finished, before it is written to.
    run_experiment: (config, workdir) → None, in the directory, which is locked.

  Raises:
    UserError: the config or the directory cannot be used; see the message.
  """
  validate(config)
  if _is_finished(config, workdir):
    return
  check_workdir(config, workdir)
  description = describe_data(config)
  workdir_lib.check_data(workdir, description)
  print(_about(description))
  with workdir_lib.prepared(workdir, config, description):
    run_experiment(config, workdir)


def dataset_name(config: config_dict.FrozenConfigDict) -> str:
  """The data set of a config: a part of its variant, or chosen by its protocol."""
  return config.variant.dataset if 'dataset' in config.variant else config.data.name


def _about(description: Mapping[str, Any]) -> str:
  """'data: cifar10, digest cf03efd1d05c', and which splits differ from the published files."""
  differing = [split for split, same in (description.get('published') or {}).items() if not same]
  remark = f'; not the published files: {", ".join(differing)}' if differing else ''
  return f'data: {description["name"]}, digest {description["digest"][:12]}{remark}'


def _is_finished(config: config_dict.FrozenConfigDict, workdir: Path) -> bool:
  """Checks the directory; whether the run in it has come to its end, which is then printed."""
  workdir_lib.check_workdir(workdir, config)
  if finished := workdir_lib.is_finished(workdir, config):
    print(f'{workdir} is finished; remove it, or choose another --workdir, to train anew.')
  elif jax.process_index() == 0:
    print(settings.describe(json.loads(config.to_json())))
  return finished
