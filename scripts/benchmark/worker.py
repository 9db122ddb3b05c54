"""A process that takes training steps on request.

  python -m scripts.benchmark.worker FRAMEWORK VARIANT DTYPE MODE WIDTH BATCH DEPTH

Once ready, it prints the seconds until its first step had finished, then the seconds of a step for
each line of input, and finally its peak memory. Each row of a table has its own process, so that
frameworks share neither thread pools nor memory and can be measured in turns.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from experiments.runtime.errors import UserError
from scripts.benchmark import network

_WARM_UP_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Row:
  """The step to measure.

  Attributes:
    framework: 'jax' (ours), 'flax.linen' or 'torch'.
    mode: 'winograd' or 'direct' convolution for jax, 'eager' or 'compile' for torch.
    width: feature maps of the first block.
    depth: convolutions in each of the first two blocks.
  """

  framework: str
  variant: str
  dtype: str
  mode: str
  width: int = 96
  batch: int = 100
  depth: int = 3

  @property
  def name(self) -> str:
    """Name for messages."""
    return f'{self.framework} {self.variant} {self.dtype} {self.mode}'


class Process:
  """A process that takes steps on request.

  Runs the Python module `module`, which calls `serve`; `name` is for messages.

  Raises:
    UserError: the process failed; with the last line of its stderr.
  """

  def __init__(
    self, name: str, module: str, arguments: Sequence[str], env: Mapping[str, str] | None = None
  ):
    self.name = name
    self._process = subprocess.Popen(
      [sys.executable, '-m', module, *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=env,
    )
    self.first_step_seconds = self._read()

  def step(self) -> float:
    """Takes a step and returns its seconds."""
    self._process.stdin.write('\n')
    self._process.stdin.flush()
    return self._read()

  def close(self) -> float:
    """Ends the process and returns its peak memory in GB."""
    self._process.stdin.close()
    peak = self._read()
    self._process.wait()
    return peak

  def kill(self) -> None:
    """Kills the process if it still runs."""
    self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
      pipe.close()

  def _read(self) -> float:
    line = self._process.stdout.readline()
    if not line:
      errors = self._process.stderr.read().strip().splitlines() or ['no message']
      self.kill()
      raise UserError(f'{self.name} failed: {errors[-1][:300]}')
    return float(json.loads(line))


class Worker(Process):
  """The process of a row."""

  def __init__(self, row: Row):
    self.row = row
    arguments = [str(value) for value in dataclasses.astuple(row)]
    super().__init__(row.name, 'scripts.benchmark.worker', arguments)


def serve(build: Callable[[], network.Step]) -> None:
  """Serves a `Process`; `build` returns the function that takes a step."""

  def answer(value: float) -> None:
    print(json.dumps(value), flush=True)

  start = time.perf_counter()
  step = build()
  step()
  first = time.perf_counter() - start
  for _ in range(_WARM_UP_STEPS):
    step()
  answer(first)
  for _ in sys.stdin:
    # An untimed step first, as in training steps are consecutive: while other processes run, a
    # virtual machine may return the memory that this one has freed to the host.
    step()
    start = time.perf_counter()
    step()
    answer(time.perf_counter() - start)
  answer(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # KB on Linux


def main() -> None:
  """Runs the process of a row."""
  names, sizes = sys.argv[1:5], map(int, sys.argv[5:])
  serve(lambda: network.build(*names, *sizes))


if __name__ == '__main__':
  main()
