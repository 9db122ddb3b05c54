"""Times training steps in rounds, each of which measures every row once."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from experiments.runtime import environment
from experiments.runtime import workdir as workdir_lib
from experiments.runtime.errors import UserError
from scripts.benchmark import cifar_step, stepper
from scripts.benchmark.worker import Process, Row, Worker

Key = TypeVar('Key')
Results = dict[str, Any]
NO_TORCH = "PyTorch is not installed; `pip install -e '.[bench]'` adds its rows."
_INSTRUCTIONS = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16')  # those that decide the speed


def measure(rows: Sequence[Row], rounds: int) -> tuple[list[Results], list[str]]:
  """Times each row `rounds` times, interleaved.

  Returns:
    A result for each row that works, and a message for each that fails.
  """
  results, failures = in_turns({row: functools.partial(Worker, row) for row in rows}, rounds)
  return [dataclasses.asdict(row) | times for row, times in results], failures


def possible(
  rows: Sequence[Key], needs_torch: Callable[[Key], bool]
) -> tuple[Sequence[Key], list[str]]:
  """The rows that can be measured, and a message if PyTorch is missing for others."""
  others = [row for row in rows if not needs_torch(row)]
  if len(others) == len(rows) or importlib.util.find_spec('torch') is not None:
    return rows, []
  return others, [NO_TORCH]


def in_turns(
  starts: Mapping[Key, Callable[[], Process]], rounds: int
) -> tuple[list[tuple[Key, Results]], list[str]]:
  """Starts a process for each key and times each `rounds` times, interleaved, after an untimed one.

  Returns:
    Times for each process that works, and a message for each that fails.
  """
  processes, failures = {}, []
  try:
    for key, start in starts.items():
      print(f'  starting {key}', file=sys.stderr)
      try:
        processes[key] = start()
      except UserError as error:
        failures.append(str(error))
    times = [[process.step() for process in processes.values()] for _ in range(rounds + 1)]
    results = [
      (
        key,
        {
          'seconds': statistics.median(seconds),
          'rounds': list(seconds),
          'first_step_seconds': process.first_step_seconds,
          'peak_memory_gb': process.close(),
        },
      )
      for (key, process), seconds in zip(processes.items(), zip(*times[1:]))
    ]
  finally:
    for process in processes.values():
      process.kill()
  return results, failures


def unprepared(env: Mapping[str, str]) -> dict[str, str]:
  """Environment variables without what `environment.prepare` sets for XLA and huge pages."""
  flags = [flag for flag in env.get('XLA_FLAGS', '').split() if environment.CPU_FLAG not in flag]
  return {k: v for k, v in env.items() if k != 'GLIBC_TUNABLES'} | {'XLA_FLAGS': ' '.join(flags)}


def describe(machine: Results) -> str:
  """The machine in two lines, as the benchmarks print it."""
  versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
  settings = ' '.join(f'{k}={v}' for k, v in machine['environment'].items() if v) or 'no settings'
  processor = ', '.join([machine['processor'], *machine['instructions']])
  card = f'{machine["card"]}; ' if machine.get('card') else ''
  return f'{card}{machine["cores"]} cores of {processor}; {versions}\n{settings}'


def machine() -> Results:
  """Describes the machine, the code and the versions of the frameworks."""
  versions = {}
  for package in ('jax', 'jaxlib', 'flax', 'torch'):
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[package] = metadata.version(package)
  processor, instructions = _processor()
  settings = {key: os.environ.get(key) for key in ('XLA_FLAGS', 'GLIBC_TUNABLES')}
  return {
    'card': _card(),
    'processor': processor,
    'instructions': instructions,
    'cores': os.cpu_count(),
    'load_average_after': os.getloadavg()[0],
    'commit': workdir_lib.commit(),
    'versions': versions,
    'environment': settings,
  }


def _processor(cpuinfo: Path = Path('/proc/cpuinfo')) -> tuple[str, list[str]]:
  """Name and instructions; with its numbers, as the name may be no more than 'AMD EPYC'."""
  try:
    lines = cpuinfo.read_text().splitlines()
  except OSError:
    return platform.processor() or platform.machine(), []
  values = {name.strip(): value.strip() for name, _, value in (x.partition(':') for x in lines)}
  name = values.get('model name', platform.machine())
  numbers = ', '.join(f'{key} {values[key]}' for key in ('cpu family', 'model') if key in values)
  flags = values.get('flags', '').split()
  return f'{name} ({numbers})' if numbers else name, [x for x in _INSTRUCTIONS if x in flags]


def _card() -> str | None:
  """Name of the GPU that is measured, or None."""
  if not stepper.is_on_gpu():
    return None
  with contextlib.suppress(OSError, subprocess.SubprocessError):
    first = os.environ['CUDA_VISIBLE_DEVICES']
    query = ['nvidia-smi', '-i', first, '--query-gpu=name', '--format=csv,noheader']
    output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return output.splitlines()[0].strip()
  return 'GPU'


def matmul_gflops() -> float:
  """GFLOP/s of the fastest of ten float32 products of 2048×2048 matrices in JAX."""
  program = """
import time, jax, jax.numpy as jnp
a = jax.random.normal(jax.random.key(0), (2048, 2048))
product = jax.jit(jnp.matmul)
def seconds():
  start = time.perf_counter()
  product(a, a).block_until_ready()
  return time.perf_counter() - start
seconds()
print(2e-9 * 2048**3 / min(seconds() for _ in range(10)))
"""
  result = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  return float(result.stdout)


def table(results: Sequence[Results], peak: float | None = None) -> str:
  """Markdown table of medians, spread, ratios, memory and, of the CIFAR-10 network, rates.

  A ratio is the median of the ratios within each round, which a temporarily slow machine affects
  less than the times. `peak` is in GFLOP/s.
  """
  ours = _rounds(results, 'jax', 'plain')
  torch = _rounds(results, 'torch', 'plain')
  header = ['step', 'ms', 'min–max', '/ our plain', '/ PyTorch', 'GB']
  header += ['GFLOP/s', 'of peak'] if peak else []
  lines = ['| ' + ' | '.join(header) + ' |', '| --- ' * len(header) + '|']
  for result in results:
    milliseconds = [1000 * seconds for seconds in result['rounds']]
    cells = [
      ' '.join(result[key] for key in ('framework', 'variant', 'dtype', 'mode')),
      _decimals(statistics.median(milliseconds)),
      f'{_decimals(min(milliseconds))}–{_decimals(max(milliseconds))}',
      _ratio(result['rounds'], ours),
      _ratio(result['rounds'], torch),
      gigabytes(result['peak_memory_gb']),
    ]
    if peak:
      size = result['width'], result['batch'], result['depth']
      rate = cifar_step.gflop(*size) / result['seconds']
      cells += [f'{rate:.0f}', f'{100 * rate / peak:.0f} %']
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _decimals(milliseconds: float) -> str:
  return f'{milliseconds:.2f}' if milliseconds < 10 else f'{milliseconds:.1f}'


def gigabytes(value: float | None) -> str:
  """A cell with a peak memory."""
  return '–' if value is None else f'{value:.2f}'


def _rounds(results: Sequence[Results], framework: str, variant: str) -> list[float] | None:
  """Seconds of the framework's first row with this variant, in float32 if there is one; or None."""
  rows = [row for row in results if (row['framework'], row['variant']) == (framework, variant)]
  rows.sort(key=lambda row: row['dtype'] != 'float32')
  return rows[0]['rounds'] if rows else None


def _ratio(rounds: Sequence[float], base: Sequence[float] | None) -> str:
  """Median over the rounds of the ratio of two rows."""
  return f'{statistics.median(x / y for x, y in zip(rounds, base)):.2f}' if base else '–'


def picture(results: Sequence[Results], title: str) -> Figure:
  """Draws a bar for each row, with its fastest and slowest round."""
  figure = Figure(figsize=(8, 0.5 + 0.3 * len(results)), layout='constrained')
  axes = figure.subplots()
  colors = {'jax': 'C0', 'flax.linen': 'C2', 'torch': 'C1'}
  for i, result in enumerate(results):
    seconds, rounds = result['seconds'], result['rounds']
    spread = [[seconds - min(rounds)], [max(rounds) - seconds]]
    axes.barh(i, seconds, xerr=spread, color=colors[result['framework']], ecolor='0.3')
  names = [
    ' '.join(result[key] for key in ('framework', 'variant', 'dtype', 'mode')) for result in results
  ]
  axes.set_yticks(range(len(results)), names)
  axes.invert_yaxis()
  axes.set(xlabel='seconds for a step: median, fastest and slowest round', title=title)
  axes.grid(axis='x', alpha=0.3)
  return figure


def write(path: Path, content: Results, figure: Figure | None = None) -> None:
  """Writes JSON to `path`, and the picture beside it."""
  path.write_text(json.dumps(content, indent=1) + '\n')
  if figure is not None:
    figure.savefig(path.with_suffix('.png'), dpi=150)
