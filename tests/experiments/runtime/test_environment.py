"""What is set before JAX starts, and that the settings of the user stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runtime import environment

ROOT = Path(__file__).parents[3]
OURS = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE'


@pytest.fixture
def jaxlib(monkeypatch):
  """Sets the version of jaxlib that is found."""
  return lambda version: monkeypatch.setattr(
    environment.importlib.metadata, 'version', {'jaxlib': version}.__getitem__
  )


@pytest.mark.parametrize(
  'before, after',
  [
    (None, OURS),
    ('--xla_dump_to=x', f'--xla_dump_to=x {OURS}'),
    ('--xla_cpu_experimental_ynn_fusion_type=X', '--xla_cpu_experimental_ynn_fusion_type=X'),
  ],
)
def test_flags_of_the_user_stay(monkeypatch, jaxlib, before, after):
  jaxlib('0.11.2')
  if before is None:
    monkeypatch.delenv('XLA_FLAGS', raising=False)
  else:
    monkeypatch.setenv('XLA_FLAGS', before)
  environment.set_xla_flags()
  assert os.environ['XLA_FLAGS'] == after


def test_products_can_be_left_to_the_library(monkeypatch, jaxlib):
  jaxlib('0.10.2')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  environment.set_xla_flags(ynn_products=True)
  assert os.environ['XLA_FLAGS'] == f'{OURS},LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'


def test_flag_is_not_given_to_a_version_that_may_not_know_it(monkeypatch, jaxlib):
  jaxlib('0.12.0')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  environment.set_xla_flags()
  assert 'XLA_FLAGS' not in os.environ


def test_compiled_programs_are_kept_in_the_cache_directory_of_the_user(monkeypatch, cache_dir):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  environment.set_compilation_cache()
  folder = Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
  assert folder.parent == cache_dir / 'compiled'
  assert len(folder.name) == 8
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'elsewhere')
  environment.set_compilation_cache()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == 'elsewhere'


COMPILE = """
import sys, jax
jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_compilation_cache_max_size', 2**20)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.jit(lambda x: x * float(sys.argv[2]))(1.0)
"""


def test_a_process_that_was_killed_while_it_kept_a_program_spoils_nothing(tmp_path):
  def compile_(factor):
    command = [sys.executable, '-c', COMPILE, tmp_path, factor]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr

  warning = 'Error writing persistent compilation cache entry'
  assert warning not in compile_('2')
  (program,) = tmp_path.glob('*lambda*-cache')
  program.write_bytes(program.read_bytes()[:100])
  program.with_name(program.name.replace('-cache', '-atime')).unlink()
  assert warning in compile_('3')  # why it is mended
  environment.remove_unfinished_programs(tmp_path)
  assert not program.exists()
  assert warning not in compile_('3')
  assert len(list(tmp_path.glob('*lambda*-cache'))) == 1
  environment.remove_unfinished_programs(tmp_path / 'nowhere')


@pytest.mark.parametrize(
  'glibc', [('glibc', '2.36', True), ('glibc', '2.31', False), ('', '', False)]
)
@pytest.mark.parametrize(
  'kernel, wanted',
  [('always [madvise] never', True), ('[always] madvise never', False), (None, False)],
)
def test_huge_pages_are_asked_for_only_where_that_helps(
  monkeypatch, tmp_path, glibc, kernel, wanted
):
  library, version, new_enough = glibc
  path = tmp_path / 'enabled'
  if kernel is not None:
    path.write_text(kernel)
  started = []
  monkeypatch.setattr(environment, '_TRANSPARENT_HUGE_PAGES', path)
  monkeypatch.setattr(environment.platform, 'libc_ver', lambda: (library, version))
  monkeypatch.setattr(environment.os, 'execv', lambda *command: started.append(command))
  monkeypatch.setenv('GLIBC_TUNABLES', 'x')
  environment.use_huge_pages()  # the user has settings of his own
  monkeypatch.delenv('GLIBC_TUNABLES')
  environment.use_huge_pages()
  if wanted and new_enough:
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    assert os.environ['GLIBC_TUNABLES'] == 'glibc.malloc.hugetlb=1'
    monkeypatch.delenv('GLIBC_TUNABLES')
  else:
    assert not started and 'GLIBC_TUNABLES' not in os.environ


def test_program_starts_anew_once_with_the_same_arguments(tmp_path):
  """In the same process, with the options of the interpreter and before JAX is there."""
  script = tmp_path / 'program.py'
  script.write_text(
    'import json, os, sys\n'
    'from pathlib import Path\n'
    'from experiments.runtime import environment\n'
    f'environment._TRANSPARENT_HUGE_PAGES = Path({str(tmp_path / "enabled")!r})\n'
    "print(json.dumps([os.getpid(), sys.argv[1:], sys.flags.optimize, 'jax' in sys.modules]))\n"
    'environment.use_huge_pages()\n'
  )
  (tmp_path / 'enabled').write_text('[madvise]')
  env = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  command = [sys.executable, '-O', str(script), '--config', 'a b']
  result = subprocess.run(
    command,
    cwd=ROOT,
    env=env | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  lines = [json.loads(line) for line in result.stdout.splitlines()]
  if environment.platform.libc_ver()[0] != 'glibc':
    pytest.skip('huge pages are asked for through glibc')
  assert len(lines) == 2 and lines[0] == lines[1]
  assert lines[0][1:] == [['--config', 'a b'], 1, False]
