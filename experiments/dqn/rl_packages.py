"""Imports the packages of the extra `rl`, or raises an error that says how to install them."""

from experiments.runtime.errors import UserError

try:
  import gymnasium as gymnasium  # without it, ale_py silently has no `vector_env`
  import rlax as rlax
  from ale_py import roms as roms
  from ale_py import vector_env as vector_env
except ImportError as error:
  raise UserError(f"{error.name or error} is not installed; run: pip install -e '.[rl]'") from error
