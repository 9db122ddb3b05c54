"""Several processes that train one run: how they connect, and how they end.

Each runs the same command on its own devices; arrays are spread over the devices of all. A process
that dies takes the others with it, as they need it for their next step.

Does not import JAX before its environment is prepared.
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

_SECONDS = 300.0  # for all to connect
AUTO = 'auto'


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of this process among those of a run."""

  coordinator: str  # HOST:PORT of process 0
  count: int
  index: int  # from 0


def find(coordinator: str | None, count: int | None, index: int | None) -> Place | str | None:
  """Finds the place of this process from --coordinator, --num-processes, --process-id or Slurm.

  Returns:
    A `Place`; `AUTO` if JAX is to find it, as on Slurm; None for a single process, such as a Slurm
    step with one task.

  Raises:
    UserError: a flag is missing or out of range.
  """
  given = {'--coordinator': coordinator, '--num-processes': count, '--process-id': index}
  if coordinator == AUTO and count is index is None:
    return AUTO
  missing = [flag for flag, value in given.items() if value is None]
  if len(missing) == len(given):
    # Set by srun. SLURM_NTASKS is also set in the batch script, which is a single process whatever
    # the number of tasks of the job.
    return AUTO if int(os.environ.get('SLURM_STEP_NUM_TASKS', '1')) > 1 else None
  if missing:
    raise UserError(
      f'{missing[0]} is missing; each of several processes needs --coordinator HOST:PORT, '
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
  """Connects the processes; silences the output of all but process 0.

  A process that fails inside prints its error and exits at once: it would wait for the others, and
  they for it. A signal or a number that is not finite stops all in the same step, and they end
  together.

  Raises:
    Interrupted: one of them received a signal.
    UserError: they cannot connect.
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
  # It would handle SIGTERM itself.
  jax.config.update('jax_enable_preemption_service', False)
  failure: list[Exception] = []

  def initialize() -> None:
    try:
      jax.distributed.initialize(**arguments, initialization_timeout=round(_SECONDS + 60))
    except Exception as error:
      failure.append(error)

  # In a thread, as it blocks signals, and aborts the program when its time is up.
  thread = threading.Thread(target=initialize, daemon=True)
  thread.start()
  thread.join(_SECONDS)
  if thread.is_alive():
    where = f' at {place.coordinator}' if isinstance(place, Place) else ''
    _end(
      UserError(
        f'the processes did not connect{where} within {_SECONDS:.0f} s; start all of them with the '
        'same --coordinator, and check that process 0 can be reached there.'
      )
    )
  if failure:
    raise UserError(f'the processes cannot connect: {failure[0]}') from failure[0]


def _check_address(place: Place) -> None:
  """Raises `UserError` for an unknown host or a taken port: JAX would hang or crash."""
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
  """Exits with the message and code of an error, without waiting for other processes."""
  code: object = 1
  if 'Gloo' in str(error):  # between CPUs; other devices have their own errors
    error = UserError(
      'another process of the run ended or lags behind, so this one ends too; rerun all of them to '
      f'resume from the last checkpoint ({str(error)[:200]}).'
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
