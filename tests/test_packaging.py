"""What is installed is `wn` alone, with jax and flax; what is published has what the tests need.

Both distributions are built from a copy of the checkout, without a package index.
"""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import wn

ROOT = Path(__file__).parent.parent
DIST_INFO = f'weightnorm-{wn.__version__}.dist-info'
# Made by work in a checkout, and what git itself keeps.
NOT_SOURCE = ('.git', '.venv', '*.egg-info', '__pycache__', '.*_cache', '.ipynb_checkpoints')
SOURCE = [
  *('.ci', '.github', '.gitignore', 'CHANGELOG.md', 'CITATION.cff', 'CONTRIBUTING.md', 'LICENSE'),
  *('MANIFEST.in', 'README.md', 'mkdocs.yml'),
  *('configs', 'constraints.txt', 'docs', 'experiments', 'notebooks', 'pyproject.toml', 'results'),
  *('scripts', 'setup.cfg', 'tests', 'wn'),
]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A copy of the checkout, as building leaves files behind."""
  pytest.importorskip('setuptools', minversion='77', reason="pip install -e '.[dev]' brings it")
  copy = tmp_path_factory.mktemp('packaging') / 'source'
  copy.mkdir()
  for name in SOURCE:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    else:
      shutil.copy(ROOT / name, copy / name)
  return copy


def python(*arguments, cwd):
  result = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.fixture(scope='module')
def wheel(source):
  options = ('--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir=../wheel')
  python('-m', 'pip', 'wheel', *options, '.', cwd=source)
  (path,) = (source.parent / 'wheel').iterdir()
  with zipfile.ZipFile(path) as opened:
    yield opened


def test_the_wheel_holds_the_library_alone(wheel):
  names = set(wheel.namelist())
  library = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'wn').rglob('*.py')}
  assert {name for name in names if '.dist-info/' not in name} == library | {'wn/py.typed'}
  assert {name.split('/')[0] for name in names} == {'wn', DIST_INFO}


def test_the_wheel_requires_jax_and_flax_alone(wheel):
  metadata = email.message_from_bytes(wheel.read(f'{DIST_INFO}/METADATA'))
  required = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line]
  assert sorted(re.match(r'[\w-]+', line)[0] for line in required) == ['flax', 'jax']
  assert set(metadata.get_all('Provides-Extra')) == {
    'experiments',
    'rl',
    'bench',
    'notebook',
    'dev',
    'docs',
  }
  assert metadata['License-Expression'] == 'MIT'


def test_the_source_distribution_has_all_but_pages_and_animations(source):
  build = 'from setuptools import build_meta; build_meta.build_sdist("../sdist")'
  python('-c', build, cwd=source)
  (path,) = (source.parent / 'sdist').iterdir()
  with tarfile.open(path) as opened:
    packed = {Path(*Path(member.name).parts[1:]) for member in opened if member.isfile()}
  files = {p.relative_to(source) for name in SOURCE for p in walk(source / name)}
  left_out = {p for p in files if p.parts[0] == 'results' and p.suffix in ('.html', '.gif')}
  assert files - packed == left_out
  assert {p.parts[0] for p in packed - files} == {'PKG-INFO', 'weightnorm.egg-info'}


def walk(path):
  return [p for p in path.rglob('*') if p.is_file()] if path.is_dir() else [path]


def test_wn_imports_only_jax_flax_and_numpy(tmp_path):
  program = """
import sys
import flax.nnx, jax
before = set(sys.modules)
import wn
print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))
"""
  path = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
  imported = python('-c', path + program, cwd=tmp_path).split()
  assert 'wn' in imported
  allowed = {'wn', 'jax', 'jaxlib', 'flax', 'numpy'} | sys.stdlib_module_names
  assert set(imported) <= allowed
