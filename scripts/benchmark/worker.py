"""A process that takes training steps on request.

  python -m scripts.benchmark.worker ROW

ROW is a `Row` as JSON. Once ready, the process prints the seconds until its first step had
finished, then the mean seconds of a few consecutive steps for each line of input, and finally its
peak memory. Each row of a table has its own process, so that frameworks share neither thread pools
nor memory and can be measured in turns.
"""

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.runtime.errors import UserError
from scripts.benchmark.stepper import Stepper, peak_memory_gb

_WARM_UP_STEPS = 2
_SECONDS = 0.1  # takes so many steps at once that they last at least this long


@dataclasses.dataclass(frozen=True)
class Row:
  """The step to measure.

  Attributes:
    framework: 'jax' (ours), 'flax.linen' or 'torch'.
    mode: 'winograd' or 'direct' convolution for jax, 'eager' or 'compile' for torch.
    experiment: 'cifar', 'vae' or 'draw', which has the module `<experiment>_step`.
    width: feature maps of the first block of cifar; None: there is no such choice.
    batch: minibatch size.
    depth: convolutions in each of the first two blocks of cifar, or None.
  """

  framework: str
  variant: str
  dtype: str
  mode: str
  experiment: str = 'cifar'
  width: int | None = 96
  batch: int = 100
  depth: int | None = 3

  @property
  def name(self) -> str:
    """Name for messages."""
    return f'{self.framework} {self.variant} {self.dtype} {self.mode}'

  def __str__(self) -> str:
    sizes = {'width': self.width, 'batch': self.batch, 'depth': self.depth}
    return ', '.join([self.name, *(f'{key} {size}' for key, size in sizes.items() if size)])


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
    """Takes steps and returns the seconds of one."""
    self._process.stdin.write('\n')
    self._process.stdin.flush()
    return self._read()

  def close(self) -> float | None:
    """Ends the process and returns its peak memory in GB, if it is known."""
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

  def _read(self) -> Any:
    line = self._process.stdout.readline()
    if not line:
      errors = self._process.stderr.read().strip().splitlines() or ['no message']
      self.kill()
      raise UserError(f'{self.name} failed: {errors[-1][:300]}')
    return json.loads(line)


class Worker(Process):
  """The process of a row."""

  def __init__(self, row: Row):
    self.row = row
    arguments = [json.dumps(dataclasses.asdict(row))]
    super().__init__(row.name, 'scripts.benchmark.worker', arguments)


def serve(build: Callable[[], Stepper]) -> None:
  """Serves a `Process`; `build` returns the steps."""

  def answer(value: float | None) -> None:
    print(json.dumps(value), flush=True)

  def seconds(count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
      stepper.take()
    stepper.wait()
    return (time.perf_counter() - start) / count

  start = time.perf_counter()
  stepper = build()
  seconds(1)
  answer(time.perf_counter() - start)
  count = math.ceil(_SECONDS / min(seconds(1) for _ in range(_WARM_UP_STEPS)))
  for _ in sys.stdin:
    # An untimed step first, as in training steps are consecutive: while other processes run, a
    # virtual machine may return the memory that this one has freed to the host.
    seconds(1)
    answer(seconds(count))
  answer(peak_memory_gb())


def main() -> None:
  """Runs the process of a row."""
  row = Row(**json.loads(sys.argv[1]))
  if row.experiment == 'vae':  # imports only what the row needs
    from scripts.benchmark import vae_step as steps
  elif row.experiment == 'draw':
    from scripts.benchmark import draw_step as steps
  else:
    from scripts.benchmark import cifar_step as steps
  serve(lambda: steps.build(row))


if __name__ == '__main__':
  main()
