"""Every command of the documents runs as it stands, in an empty folder, on tiny data.

Sizes are made tiny by overrides that are put after what the document says. The commands of the
README, and of the pages of the experiments, run one after the other, as a reader would: those that
look into a run find it where the command before them has put it.
"""

import functools
import http.server
import re
import shlex
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import archives
from tests.commands import run_here

ROOT = Path(__file__).parent.parent
SEQUENCES = [
  ROOT / 'README.md',
  ROOT / 'docs' / 'sweeps.md',
  *sorted((ROOT / 'docs' / 'experiments').glob('*.md')),
]
DOCUMENTS = [
  *sorted((ROOT / 'docs').glob('*.md')),
  *sorted((ROOT / 'configs').glob('*.py')),
  *sorted((ROOT / 'experiments').rglob('*.py')),
  *sorted((ROOT / 'scripts').rglob('*.py')),
  *sorted((ROOT / 'notebooks').glob('*.ipynb')),
]
COMMAND = re.compile(r"""python -m ((?:experiments|scripts)[.\w]+)([^`"'\n]*)""")
# What stands for something else, as in `configs/cifar.py:VARIANT[,PROTOCOL]`.
PLACEHOLDER = re.compile(r'[A-Z]{3,}|[{|$]|\.\.\.|…')
SMALL_NETWORK = {
  'cifar': 'model.width=2 model.block_depth=1 init.examples=5 run.cpu_winograd=False',
  'vae': 'init.examples=5',
  'draw': 'data.train_examples=0 model.glimpses=2 model.encoder_units=4 model.decoder_units=4',
  'dqn': 'env.num_envs=4 model.features=(2,2,2) model.hidden=4 init.examples=8 '
  'replay.capacity=400 replay.learning_starts=80 replay.batch_size=4 learning.target_period=10 '
  'steps_per_epoch=160 evaluation.steps=40 evaluation.num_envs=2 evaluation.max_frames=400 '
  'run.log_every=80 run.checkpoint_every=160',
}
SMALL_VAE = {
  'mnist': 'model.maps=(1,1,1) model.blocks=1 model.hidden=4 model.latents=2 model.flow_width=4',
  'cifar10': 'model.depths=(1,1) model.h=4 model.z=1',
}


def commands(path):
  """(module, arguments) of each command of a document, without those that have placeholders."""
  text = path.read_text().replace('\\\n', ' ').replace('\\n"', '"')  # as JSON has a line
  for module, rest in COMMAND.findall(text):
    rest = re.sub(r'\[[^]]*\]', '', rest)  # what may be left out
    rest = re.split(r'\s+#|\s+&|\s{2,}[a-z]|;|\)|, ', rest)[0].rstrip(' .,:')
    # One without arguments is only named; tests/scripts/benchmark runs them.
    if rest and not PLACEHOLDER.search(rest) and module != 'scripts.benchmark':
      yield module, tuple(shlex.split(rest))


def of_sequence(path):
  return list(dict.fromkeys(commands(path)))


def elsewhere():
  """The commands that stand outside the sequences only."""
  before = {command for path in SEQUENCES for command in commands(path)}
  found = {command: None for path in DOCUMENTS for command in commands(path)}
  return [command for command in found if command not in before]


def tiny(module, arguments):
  """What is put behind the arguments of a command, so that it ends in seconds."""
  experiment = module.split('.')[1]
  if '--help' in arguments:
    return []
  if module == 'scripts.sweep':
    return ['--dry-run']
  if module.endswith('.likelihood'):
    return ['--samples=2', '--batch=2']
  if module.endswith('.score'):
    return ['--episodes=2']
  if module not in [f'experiments.{name}' for name in SMALL_NETWORK]:
    return []
  changes = SMALL_NETWORK[experiment]
  if experiment == 'vae':
    is_cifar10 = ':cifar10-' in ' '.join(arguments)
    changes = f'{changes} {SMALL_VAE["cifar10" if is_cifar10 else "mnist"]}'
  if experiment == 'draw' and 'noattention' not in ' '.join(arguments):
    changes += ' model.write_window=2'
  if experiment != 'dqn':
    changes += ' batch_size=5 run.eval_batch_size=4'
  return [f'--config.{change}' for change in ('epochs=1', *changes.split())]


@pytest.fixture
def reader(tmp_path, monkeypatch, capfd, caplog):
  """Runs a command where a reader would: in a checkout, without data, with an empty HOME."""
  for name in ('configs', 'notebooks', 'scripts'):
    (tmp_path / 'checkout' / name).parent.mkdir(exist_ok=True)
    (tmp_path / 'checkout' / name).symlink_to(ROOT / name)
  monkeypatch.chdir(tmp_path / 'checkout')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('no_proxy', '*')
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)

  def run(module, arguments):
    code, error = run_here(
      module, [*arguments, *tiny(module, arguments)], monkeypatch, capfd, caplog
    )
    assert code == 0, f'python -m {module} {shlex.join(arguments)}: {error}'

  monkeypatch.setattr(archives, 'COUNTS', {'train': 20, 'test': 20})  # pictures show ten images
  served = tmp_path / 'served'
  for name in ('cifar10', 'mnist'):
    archives.write(served, archives.tiny(name))
  handler = functools.partial(QuietHandler, directory=served)
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    archives.publish_tiny(monkeypatch, f'http://127.0.0.1:{server.server_port}/')
    yield run
    server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *_):
    pass


@pytest.mark.parametrize('path', SEQUENCES, ids=lambda path: path.stem)
def test_the_commands_of_a_page_run_in_its_order(path, reader):
  found = of_sequence(path)
  assert len(found) > 2
  for module, arguments in found:
    if module.startswith('experiments.dqn') and not find_spec('ale_py'):
      continue  # its extra is not installed
    if module == 'scripts.report':  # what the sweep before it would have trained
      digits = ('--config', 'configs/cifar.py:wn,digits', '--workdir', 'runs/cifar/digits/wn')
      reader('experiments.cifar', digits)
    reader(module, arguments)


def test_the_pages_name_every_program():
  names = {module for path in SEQUENCES for module, _ in commands(path)}
  for wanted in ('cifar', 'vae', 'vae.likelihood', 'draw', 'dqn', 'dqn.score', 'download'):
    assert f'experiments.{wanted}' in names
  assert {'scripts.sweep', 'scripts.report'} <= names


@pytest.mark.parametrize('module, arguments', elsewhere())
def test_other_documents_commands_run(module, arguments, reader, monkeypatch):
  if '--coordinator' in arguments:
    pytest.skip('it needs a process on another machine: see test_two_processes.py')
  if module.startswith('experiments.dqn') and not find_spec('ale_py'):
    pytest.skip('it needs ale_py, which is not installed')
  if '--config' in arguments:
    for name in ('cifar10', 'mnist'):
      reader('experiments.download', (name,))
  reader(module, arguments)
