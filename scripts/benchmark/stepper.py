"""What the benchmarks time: steps of JAX or PyTorch that are started, then waited for."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.runtime.errors import UserError

PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda'}  # JAX's names


class Stepper(NamedTuple):
  """`take` starts a step; `wait` returns when all of them are done."""

  take: Callable[[], None]
  wait: Callable[[], None]


def use(device: str) -> None:
  """Has JAX and, through `torch_device`, PyTorch use this device, here and in child processes.

  Must be called before JAX is imported.

  Args:
    device: 'cpu' or 'gpu', the first that is visible.

  Raises:
    UserError: JAX finds no GPU.
  """
  os.environ['JAX_PLATFORMS'] = PLATFORMS[device]
  if device == 'gpu':
    os.environ['CUDA_VISIBLE_DEVICES'] = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]
    os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # the rows share the card
    program = [sys.executable, '-c', 'import jax; jax.devices()']
    result = subprocess.run(program, capture_output=True, text=True)
    if result.returncode:
      reason = result.stderr.strip().splitlines()[-1][:300]
      raise UserError(
        f"--device gpu: JAX finds no GPU ({reason}); pip install 'jax[cuda13]' adds its support."
      )


def is_on_gpu() -> bool:
  """Whether `use` chose a GPU."""
  return os.environ.get('JAX_PLATFORMS') == PLATFORMS['gpu']


def torch_device() -> str:
  """PyTorch's name of the device; on a GPU, sets TF32 and tuned kernels, as JAX has them."""
  import torch

  if not is_on_gpu():
    return 'cpu'
  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.benchmark = True
  return 'cuda'


def peak_memory_gb() -> float | None:
  """Peak memory in GB: of this process, or on a GPU of its arrays; None if JAX doesn't tell."""
  if not is_on_gpu():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # KB on Linux
  if 'torch' in sys.modules:
    return sys.modules['torch'].cuda.max_memory_allocated() / 1e9
  stats = sys.modules['jax'].local_devices()[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')  # 0 on an H100 with jax 0.11
  return peak / 1e9 if peak else None


def digits(batch: int) -> np.ndarray:
  """Random images [batch, 28, 28, 1] uint8, of the size of MNIST's."""
  return np.random.default_rng(0).integers(0, 256, (batch, 28, 28, 1), np.uint8)


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
