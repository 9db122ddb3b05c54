"""Settings for all tests."""

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import filelock
import psutil
import pytest

# It configures logging, which closes the streams of the handlers that are there: so before absl's.
import submitit  # noqa: F401

from experiments.runtime import environment

# XLA takes most of the time of the tests, and without optimizing less than half of that.
# OPTIMIZED=1 has programs compiled as users have them. As variables, they reach the processes that
# tests start.
if os.environ.get('OPTIMIZED') != '1':
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  flags, flag = os.environ.get('XLA_FLAGS', ''), '--xla_cpu_use_fusion_emitters=false'
  # XLA refuses flags that it does not know.
  if flag not in flags and importlib.metadata.version('jaxlib').startswith('0.10.'):
    os.environ['XLA_FLAGS'] = f'{flags} {flag}'
environment.set_xla_flags()

import jax  # noqa: E402

from experiments.runtime import workdir as workdir_lib  # noqa: E402
from experiments.runtime.errors import UserError  # noqa: E402
from experiments.training import data  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')

# Compiled programs and traces are kept by JAX; beyond this they are dropped after a test.
MAX_BYTES = 1.2e9


def pytest_addoption(parser):
  parser.addoption(
    '--system',
    action='store_true',
    default=os.environ.get('CI') == 'true',
    help='as root: install the packages of Debian that some tests need, and mount small disks',
  )
  group = parser.getgroup('the long set of tests/faults')
  group.addoption('--long', action='store_true', help='run it; 10 minutes')
  group.addoption('--kills', type=int, default=100, help='how many, over all experiments')
  group.addoption('--steps', type=int, default=20_000, help='of the run that watches memory')
  group.addoption('--seed', type=int, default=0, help='of the random moments')
  group.addoption('--figures', type=Path, help='directory for what was measured, as JSON')


def pytest_configure(config):
  config.addinivalue_line('markers', 'long: only with --long')


def pytest_collection_modifyitems(config, items):
  if not config.getoption('long'):
    for item in items:
      if item.get_closest_marker('long'):
        item.add_marker(pytest.mark.skip(reason='needs --long'))


def pytest_collection_finish():
  """Has the collector of garbage pass over what will stay."""
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def _limit_memory():
  yield
  if psutil.Process().memory_info().rss > MAX_BYTES:
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
      ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope='session', autouse=True)
def _compile_once(tmp_path_factory):
  """Keeps compiled programs for the length of the session; many tests compile the same step."""
  directory = tmp_path_factory.getbasetemp().parent / 'compiled'
  # For the processes that tests start. Without a limit of size, as here: JAX cannot mix the two.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(directory)
  os.environ['JAX_COMPILATION_CACHE_MAX_SIZE'] = '-1'
  jax.config.update('jax_compilation_cache_dir', str(directory))
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
  """The user's cache directory, empty."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'weightnorm'


@functools.cache
def _what_is_wrong_with(name):
  try:
    data.load(name)
  except UserError as error:
    return str(error)
  return None


@pytest.fixture(scope='session')
def needs_data():
  """Call it with the name of a data set to skip the test where that cannot be loaded."""

  def needs_data_(name):
    if problem := _what_is_wrong_with(name):
      pytest.skip(problem)

  return needs_data_


@pytest.fixture
def figures(request):
  """Keeps what was measured, with the commit, in NAME.json of the directory of --figures."""

  def write(name, values):
    if directory := request.config.getoption('figures'):
      directory.mkdir(parents=True, exist_ok=True)
      text = json.dumps({'commit': workdir_lib.commit(), **values}, indent=2)
      row = lambda match: ' '.join(match[0].split())
      text = re.sub(r'\[[^][{}]*\]', row, text)  # a row of numbers on one line
      (directory / f'{name}.json').write_text(text + '\n')

  return write


@pytest.fixture(scope='session')
def install(request):
  """Makes sure of programs, by Debian's packages if --system allows it; else skips the test."""

  def install_(programs, packages):
    missing = [program for program in programs if not shutil.which(program)]
    if not missing:
      return
    wanted = (
      f'{missing[0]} is missing; on Debian, root can install it with scripts/test --system '
      f'(apt-get install {" ".join(packages)})'
    )
    is_allowed = request.config.getoption('system')
    if not is_allowed or os.geteuid() or not shutil.which('apt-get'):
      pytest.skip(wanted)
    with filelock.FileLock(Path(tempfile.gettempdir()) / 'weightnorm-tests-apt.lock'):
      for arguments in (['update'], ['install', '--yes', '--no-install-recommends', *packages]):
        result = subprocess.run(
          ['apt-get', '--quiet', '--option', 'DPkg::Lock::Timeout=120', *arguments],
          env=os.environ | {'DEBIAN_FRONTEND': 'noninteractive'}, capture_output=True, text=True,
        )  # fmt: skip
        if result.returncode:
          pytest.skip(f'{wanted}, and cannot be installed: {result.stderr.strip()[-200:]}')

  return install_
