"""A process that holds one training step ready and takes it on request.

  python -m scripts.benchmark.worker FRAMEWORK VARIANT DTYPE MODE WIDTH BATCH DEPTH

Writes the seconds to its first step when it is ready, then the seconds of one step for each line
that it reads, and last the peak memory of the process. Each row of a table has its own process, so
that frameworks share neither thread pools nor memory, and the parent can take them in turns.
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
  """What is measured.

  Attributes:
    framework: 'jax' (ours), 'flax.linen' or 'torch'.
    variant: parameterisation.
    dtype: 'float32' or 'bfloat16'.
    mode: 'winograd' or 'direct' convolution for jax, 'eager' or 'compile' for torch.
    width: maps of the first block.
    batch: images in a minibatch.
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
    """For tables."""
    return f'{self.framework} {self.variant} {self.dtype} {self.mode}'


class Process:
  """A Python module that was started with arguments, and takes a step on request.

  Args:
    name: for messages.
    module: of which `main` calls `serve`.
    arguments: of its command line.
    env: its environment variables; None: those of this process.

  Raises:
    UserError: the process failed; the message is its last line.
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
    """Takes one step; returns its seconds."""
    self._process.stdin.write('\n')
    self._process.stdin.flush()
    return self._read()

  def close(self) -> float:
    """Ends the process; returns its peak memory in GB."""
    self._process.stdin.close()
    peak = self._read()
    self._process.wait()
    return peak

  def kill(self) -> None:
    """Ends the process at once, if it still runs."""
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
  """The process of one row.

  Raises:
    UserError: the process failed; the message is its last line.
  """

  def __init__(self, row: Row):
    self.row = row
    arguments = [str(value) for value in dataclasses.astuple(row)]
    super().__init__(row.name, 'scripts.benchmark.worker', arguments)


def serve(build: Callable[[], network.Step]) -> None:
  """What a `Process` runs.

  Args:
    build: returns the function that takes a step.
  """

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
    # The memory that this process gave back went cold while the others had their turns; a virtual
    # machine gets it anew from its host. In training the steps follow each other.
    step()
    start = time.perf_counter()
    step()
    answer(time.perf_counter() - start)
  answer(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # KB on Linux


def main() -> None:
  """The process of a row."""
  names, sizes = sys.argv[1:5], map(int, sys.argv[5:])
  serve(lambda: network.build(*names, *sizes))


if __name__ == '__main__':
  main()
