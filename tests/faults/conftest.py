"""What many faults are tried on: a training loop that compiles at once, and all commands.

The loop trains a model of a few numbers. The commands run in this process.
"""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.runtime import orbax_logging
from experiments.runtime.metrics import read_rows
from experiments.training import session
from experiments.training.state import TrainState
from tests import loops
from tests.commands import run_here

ROOT = Path(__file__).parents[2]
OPTIMIZER = optax.sgd(0.1)


@jax.jit
def train_step(state, indices):
  gradients = jax.tree.map(lambda w: w * jnp.mean(indices), state.params)
  metrics = {'train/loss': state.params['w'][...] + jnp.sin(state.step)}
  return state.apply_gradients(gradients, state.model_state, OPTIMIZER), metrics


def evaluate(state):
  return {'test/error': abs(float(state.params['w'][...]) - 0.63)}


@dataclasses.dataclass
class Run:
  """A run of 3 epochs of 5 steps, with rows every 4 steps and checkpoints every 3.

  The second epoch is the best.
  """

  workdir: Path

  def __call__(self, **changes):
    """Begins it, or goes on with it; returns the last state."""
    settings = dict(
      train_step=train_step,
      evaluate=evaluate,
      order=lambda epoch: session.epoch_batches(jax.random.key(0), epoch, 10, 2) / 10,
      steps_per_epoch=5,
      epochs=3,
      workdir=self.workdir,
      best_metric='test/error',
      log_every=4,
      checkpoint_every=3,
      keep_checkpoints=2,
    )
    self.workdir.mkdir(exist_ok=True)
    return loops.train(self.state(), **{**settings, **changes})

  @staticmethod
  def state():
    params = nnx.State({'b': nnx.Param(jnp.linspace(1, 2, 500)), 'w': nnx.Param(jnp.array(1.0))})
    return TrainState.create(params, nnx.State({}), OPTIMIZER, ema=False)

  @property
  def rows(self):
    """Without the seconds."""
    rows = read_rows(self.workdir / 'metrics.jsonl')
    return [{key: value for key, value in row.items() if key != 'seconds'} for row in rows]

  @property
  def checkpoints(self):
    """Their steps."""
    folder = self.workdir / 'checkpoints'
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


@pytest.fixture(scope='session', autouse=True)
def _quiet():
  """Importing it is not enough: pytest has hooks of its own."""
  orbax_logging.install()


@pytest.fixture(autouse=True)
def _interruptible():
  """What a shell starts in the background has SIGINT ignored, and so would these tests."""
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, handler)


@pytest.fixture
def run(tmp_path):
  return Run(tmp_path / 'run')


@pytest.fixture
def before():
  """A training step that first does something before one of the steps, counted from 0."""

  def before_(step_number, action):
    def step(state, indices):
      if int(state.step) == step_number:
        action()
      return train_step(state, indices)

    return step

  return before_


@pytest.fixture(scope='session')
def whole(tmp_path_factory):
  """An uninterrupted run, and its last state."""
  run = Run(tmp_path_factory.mktemp('whole') / 'run')
  state = run()
  assert run.checkpoints == [10, 12, 15]
  return run, state


@pytest.fixture
def is_whole(whole):
  """Checks that a run ended as the uninterrupted one, bit for bit."""

  def check(run, state):
    assert run.rows == whole[0].rows
    assert {10, 15} <= set(run.checkpoints)  # the best and the last
    jax.tree.map(np.testing.assert_array_equal, state, whole[1])

  return check


@pytest.fixture
def disk(tmp_path, request):
  """A file system of 2 MB; call it with options to mount it anew, keeping what is in it."""
  if not request.config.getoption('system'):
    pytest.skip('mounts a small disk: only with scripts/test --system')
  path = tmp_path / 'disk'
  path.mkdir()

  def mount(*options):
    command = ['mount', *options, 'tmpfs', path]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
      pytest.skip(f'only root can mount a small disk here ({result.stderr.strip()})')

  mount('-t', 'tmpfs', '-o', 'size=2m')
  yield path, lambda options: mount('-o', f'remount,{options}')
  subprocess.run(['umount', path], check=True)


COMMANDS = {
  'cifar': 'experiments.cifar',
  'vae': 'experiments.vae',
  'draw': 'experiments.draw',
  'dqn': 'experiments.dqn',
  'likelihood': 'experiments.vae.likelihood',
  'score': 'experiments.dqn.score',
  'download': 'experiments.download',
  'quickstart': 'scripts.quickstart',
  'sweep': 'scripts.sweep',
  'report': 'scripts.report',
  'benchmark': 'scripts.benchmark',
}


def run_apart(module, arguments):
  """The same in a process of its own."""
  command = [sys.executable, '-m', module, *arguments]
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}
  result = subprocess.run(command, env=environment, capture_output=True, text=True)
  return result.returncode, result.stderr


def contents(folder):
  """Path → (inode, what is in it) of everything below a folder; the inode tells of a new file."""
  found = {}
  for root, folders, files in os.walk(folder):
    for path in (os.path.join(root, name) for name in folders + files):
      if os.path.islink(path):
        found[path] = os.readlink(path)
      else:
        is_file = os.path.isfile(path)
        found[path] = os.stat(path).st_ino, Path(path).read_bytes() if is_file else None
  return found


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd, caplog):
  """Checks that a command gives one line on stderr and the code 2, and writes nothing.

  It runs in `tmp_path`, which is also where its caches would be.
  """
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('MPLCONFIGDIR', matplotlib.get_cachedir())  # its own cache does not count
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

  def check(command, message, *, apart=False):
    name, *arguments = shlex.split(command)
    before = contents(tmp_path)
    if apart:
      code, error = run_apart(COMMANDS[name], arguments)
    else:
      code, error = run_here(COMMANDS[name], arguments, monkeypatch, capfd, caplog)
    (line,) = error.splitlines()
    assert line.startswith('error: ') and message in line
    assert code == 2
    assert contents(tmp_path) == before

  return check
