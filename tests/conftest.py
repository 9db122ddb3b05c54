"""Settings for all tests."""

import os

import pytest

from experiments.training import environment

environment.set_xla_flags()

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session', autouse=True)
def _compile_once(tmp_path_factory):
  """Keeps compiled programs for the length of the session; many tests compile the same step."""
  directory = tmp_path_factory.getbasetemp().parent / 'compiled'
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(directory)  # for the processes that tests start
  jax.config.update('jax_compilation_cache_dir', str(directory))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
  """The user's cache directory, empty."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'weightnorm'
