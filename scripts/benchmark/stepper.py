"""What the benchmarks time: steps of JAX or PyTorch that are started, then waited for."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.runtime.errors import UserError

PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda'}  # JAX's names


class Stepper(NamedTuple):
  """`take` starts a step; `wait` returns when all of them are done."""

  take: Callable[[], None]
  wait: Callable[[], None]


def use(device: str) -> None:
  """Has JAX and, through `torch_device`, PyTorch use 'cpu' or 'gpu', here and in child processes.

  Must be called before JAX is imported.

  Raises:
    UserError: JAX finds no GPU.
  """
  os.environ['JAX_PLATFORMS'] = PLATFORMS[device]
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the rows share a card
  if device == 'gpu':
    program = 'import jax; jax.devices()'
    if subprocess.run([sys.executable, '-c', program], capture_output=True).returncode:
      raise UserError("--device gpu: JAX finds no GPU; pip install 'jax[cuda13]' adds its support.")


def torch_device() -> str:
  """PyTorch's name of the device chosen by `use`; sets TF32 products, as in JAX, on a GPU."""
  import torch

  if os.environ.get('JAX_PLATFORMS') != PLATFORMS['gpu']:
    return 'cpu'
  torch.set_float32_matmul_precision('high')
  return 'cuda'


def of_jax(step: Callable[..., Any], state: Any, arguments: tuple[Any, ...]) -> Stepper:
  """Steps `state, metrics = step(state, *arguments)` of a jitted function."""
  import jax

  result = state, None

  def take() -> None:
    nonlocal result
    result = step(result[0], *arguments)

  return Stepper(take, lambda: jax.block_until_ready(result))


def of_torch(step: Callable[[], None], device: str) -> Stepper:
  """Steps of a function without arguments."""
  import torch

  return Stepper(step, torch.cuda.synchronize if device == 'cuda' else lambda: None)
