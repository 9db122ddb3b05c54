"""The packages of the extra `rl`; without them, one line that says how to get them."""

from experiments.runtime.errors import UserError

try:
  import gymnasium as gymnasium  # `vector_env` needs it, and would be missing without a word
  import rlax as rlax
  from ale_py import roms as roms
  from ale_py import vector_env as vector_env
except ImportError as error:
  raise UserError(f'{error.name or error} is not installed; run: pip install .[rl]') from error
