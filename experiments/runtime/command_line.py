"""The command line of an experiment: `--config FILE:SPEC`, `--config.KEY=VALUE`, `--workdir`."""

import importlib
import os
import sys

from absl import flags
from ml_collections import config_dict, config_flags

from experiments.runtime import environment, interrupts, processes, settings
from experiments.runtime.errors import UserError, one_line_errors, user_path

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration as FILE:SPEC; --config.KEY=VALUE overrides a value.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory of the run (default: runs/EXPERIMENT/VARIANT[-PROTOCOL]/seedK).'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Folder of the data sets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets).'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, "HOST:PORT of process 0 of several, or 'auto' to let JAX find it."
)
_NUM_PROCESSES = flags.DEFINE_integer('num-processes', None, 'Number of processes of the run.')
_PROCESS_ID = flags.DEFINE_integer('process-id', None, 'Index of this process, from 0.')

_HELP = """\
  --config FILE:SPEC    configuration, as above
  --config.KEY=VALUE    overrides a value; FILE lists the keys and what they mean
  --workdir DIR         directory of the run (default: runs/EXPERIMENT/VARIANT[-PROTOCOL]/seedK)
  --data_dir DIR        folder of the data sets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)

  --coordinator HOST:PORT --num-processes N --process-id I
                        for each of N processes that train a run together (docs/SCALING.md); not
                        needed on Slurm

Rerun the same command to resume an interrupted run."""


def run(experiment: str, *, ynn_products: bool = False, alone: bool = False) -> None:
  """Parses the command line and calls `train(config, workdir, data_dir)` of the experiment.

  JAX is imported last: after its environment is set, and not for a wrong command line.

  Args:
    experiment: e.g. 'cifar' for `experiments.cifar.train`.
    ynn_products: see `environment.set_xla_flags`.
    alone: refuse to run in several processes.
  """
  with one_line_errors():
    interrupts.install()
    if {'-h', '--help', '--helpfull'} & set(sys.argv):
      print(importlib.import_module(f'configs.{experiment}').__doc__, _HELP, sep='\n')
      return
    config = _parse(sys.argv, experiment)
    place = processes.find(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if place and alone:
      raise UserError(f'{experiment} runs in one process on one device; start a single process.')
    environment.prepare(ynn_products=ynn_products)
    with processes.joined(place):
      module = importlib.import_module(f'experiments.{experiment}.train')
      _check_devices()
      _warn_of_unused(config)
      workdir = user_path(_WORKDIR.value or default_workdir(config))
      module.train(config, workdir, _DATA_DIR.value)


def _warn_of_unused(config: config_dict.FrozenConfigDict) -> None:
  """Names the overrides that change nothing, once for all processes."""
  import jax

  if jax.process_index():
    return
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  for key, reason in settings.unused(config).items():
    if key in overrides:
      print(f'warning: --config.{key} changes nothing with {reason}.', file=sys.stderr)


def _check_devices() -> None:
  """Raises a `UserError` if JAX finds no device of JAX_PLATFORMS."""
  import jax

  try:
    jax.devices()
  except Exception as error:  # RuntimeError, or AssertionError where no NVIDIA GPU is visible
    if not (platforms := os.environ.get('JAX_PLATFORMS')):
      raise
    raise UserError(
      f'JAX finds no device of JAX_PLATFORMS={platforms}. Does nvidia-smi show a GPU, and is JAX '
      "installed for it (pip install -U 'jax[cuda13]')? For CPUs: JAX_PLATFORMS=cpu."
    ) from error


def default_workdir(config: config_dict.ConfigDict) -> str:
  """E.g. 'runs/cifar/wn-scaled/seed0'; the paper's protocol has no suffix."""
  name = settings.variant(config)
  name = name if config.protocol == 'paper' else f'{name}-{config.protocol}'
  return os.path.join('runs', config.experiment, name, f'seed{config.seed}')


def _parse(argv: list[str], experiment: str) -> config_dict.FrozenConfigDict:
  try:
    rest = flags.FLAGS(argv)[1:]
  except OSError as error:  # an override of a config file that does not exist
    raise UserError('--config names no file; run from the root of the repository.') from error
  except Exception as error:  # from absl, or anything that the config file raises
    raise UserError(_last_line(error)) from error
  if rest:
    raise UserError(f'unexpected argument {rest[0]!r}; overrides are written --config.KEY=VALUE.')
  if flags.FLAGS['config'].value is None:
    raise UserError('--config is missing; for example --config configs/cifar.py:wn,scaled')
  path = flags.FLAGS['config'].config_filename.split(':')[0]
  if not os.path.isfile(path):
    raise UserError(f'no configuration file {path}; run from the root of the repository.')
  for key in config_flags.get_override_values(flags.FLAGS['config']):
    if settings.is_among(key, settings.CHOSEN):
      raise UserError(f'--config.{key} cannot be overridden; choose it in --config FILE:SPEC.')
  config = _CONFIG.value
  name = config.experiment if 'experiment' in config else 'no experiment'
  if name != experiment:
    raise UserError(f'{path} is a config of {name}, not of {experiment}.')
  try:
    settings.check(config)
  except ValueError as error:
    raise UserError(f'{path}: {error}') from error
  return config_dict.FrozenConfigDict(config)


def _last_line(error: Exception) -> str:
  """The message of a flag error, without the traceback that config_flags adds."""
  inner = error.args[0] if error.args else error
  if isinstance(inner, KeyError):  # a misspelt key, perhaps with a hint on a second line
    return f'the config has no key {". ".join(str(inner.args[0]).splitlines())}'
  text = str(inner if isinstance(error, KeyError) else error)
  if 'Traceback' in text:
    text = text.strip().splitlines()[-1].split(': ', 1)[-1]
  return text
