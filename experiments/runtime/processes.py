"""Several processes that train one run: how they find each other, and how they end.

Each runs the same command on devices of its own. What they do between start and end is in
`devices`: arrays lie on the devices of all. A process that ends before its time takes the others
with it, as they need it for their next step; the same commands go on from the last checkpoint.

As `environment`, this file must not import JAX before the environment is prepared.
"""

import contextlib
import dataclasses
import errno
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import NoReturn

from experiments.runtime.errors import Interrupted, UserError, one_line_errors

_SECONDS = 300.0  # for all to come together
AUTO = 'auto'


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of this process among those of a run.

  Attributes:
    coordinator: HOST:PORT that process 0 opens and the others come to.
    count: number of processes.
    index: of this one, from 0.
  """

  coordinator: str
  count: int
  index: int


def find(coordinator: str | None, count: int | None, index: int | None) -> Place | str | None:
  """What the command line and Slurm say about other processes.

  Args:
    coordinator: of --coordinator: HOST:PORT, 'auto' or None.
    count: of --num-processes.
    index: of --process-id.

  Returns:
    The place of this process; `AUTO` if JAX is to find it, as on Slurm; None if it is alone. It is
    alone in a step of Slurm with one task, such as a job of a sweep.

  Raises:
    UserError: a part is missing or out of range.
  """
  given = {'--coordinator': coordinator, '--num-processes': count, '--process-id': index}
  if coordinator == AUTO and count is index is None:
    return AUTO
  missing = [flag for flag, value in given.items() if value is None]
  if len(missing) == len(given):
    # Set by srun for what it starts. SLURM_NTASKS is there in a batch script as well, which is one
    # process whatever the number of tasks of the job.
    return AUTO if int(os.environ.get('SLURM_STEP_NUM_TASKS', '1')) > 1 else None
  if missing:
    raise UserError(
      f'{missing[0]} is missing: each of several processes is given --coordinator HOST:PORT, '
      '--num-processes and --process-id.'
    )
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f'--coordinator {coordinator} is not HOST:PORT.')
  if count < 1:
    raise UserError(f'--num-processes {count} must be 1 or more.')
  if not 0 <= index < count:
    raise UserError(
      f'--process-id {index} must be at least 0 and below --num-processes, which is {count}.'
    )
  return Place(coordinator, count, index) if count > 1 else None


@contextlib.contextmanager
def joined(place: Place | str | None) -> Iterator[None]:
  """Brings the processes together, for what is done inside; prints the output of process 0 only.

  A process in which something fails says so and ends at once, with the exit code that it would have
  alone: waiting for the others, it would keep them waiting for it. If all do, because of a signal
  or of numbers that are not finite, they end together.

  Args:
    place: of this process; None: it is alone.

  Raises:
    Interrupted: by a signal to one of them.
    UserError: they do not come together.
  """
  if place is None:
    yield
    return
  _connect(place)
  import jax

  from experiments.runtime.nonfinite import NotFinite

  if jax.process_index():
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
  else:
    print(f'{jax.process_count()} processes with {jax.device_count()} devices')
  try:
    yield
  except (Interrupted, NotFinite):
    jax.distributed.shutdown()  # waits for the others
    raise
  except BaseException as error:
    _end(error)


def _connect(place: Place | str) -> None:
  import jax

  arguments = {}
  if isinstance(place, Place):
    _check_address(place)
    arguments = {
      'coordinator_address': place.coordinator,
      'num_processes': place.count,
      'process_id': place.index,
    }
  # It would take SIGTERM for itself.
  jax.config.update('jax_enable_preemption_service', False)
  failure: list[Exception] = []

  def initialize() -> None:
    try:
      jax.distributed.initialize(**arguments, initialization_timeout=round(_SECONDS + 60))
    except Exception as error:
      failure.append(error)

  # In a thread, as it takes no signals, and at the end of its time takes the program down.
  thread = threading.Thread(target=initialize, daemon=True)
  thread.start()
  thread.join(_SECONDS)
  if thread.is_alive():
    where = f' at {place.coordinator}' if isinstance(place, Place) else ''
    _end(
      UserError(
        f'the processes did not come together{where} in {_SECONDS:.0f} s; start all of them, with '
        'the same --coordinator, and see that process 0 can be reached there.'
      )
    )
  if failure:
    raise UserError(f'the processes cannot come together: {failure[0]}') from failure[0]


def _check_address(place: Place) -> None:
  """What JAX would wait for, or crash at.

  Raises:
    UserError: the host is unknown, or the port is taken.
  """
  host, _, port = place.coordinator.rpartition(':')
  try:
    if place.index:
      socket.getaddrinfo(host.strip('[]'), int(port))
    else:
      socket.create_server(('', int(port))).close()
  except OSError as error:
    if place.index or error.errno not in (errno.EADDRINUSE, errno.EACCES):
      what = 'cannot be used'
    else:
      what = 'is taken; choose another port'
    raise UserError(f'--coordinator {place.coordinator} {what} ({error.strerror}).') from error


def _end(error: BaseException) -> NoReturn:
  """Ends this process as the error does, but without waiting for the others."""
  code: object = 1
  if 'Gloo' in str(error):  # between CPUs; other devices have errors of their own
    error = UserError(
      'another process of the run has ended or lags behind, and with it this one ends; start all '
      f'of them again to go on from the last checkpoint ({str(error)[:200]}).'
    )
  try:
    with one_line_errors():
      raise error
  except SystemExit as exit_:
    code = exit_.code
  except BaseException:
    traceback.print_exc()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code if isinstance(code, int) else 1)
