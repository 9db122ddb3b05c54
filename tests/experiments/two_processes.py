"""Trains tiny runs in one process and in two.

  python -m tests.experiments.two_processes DIRECTORY EXPERIMENT ...

The processes are copies of this one, made after all is imported and before JAX computes: that is
most of what a short run takes. Prints their exit codes as JSON.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import jax
from jax._src import cache_key

from experiments.cifar import train as cifar
from experiments.draw import train as draw
from experiments.runtime import command_line, processes
from experiments.vae import train as vae

# Eight steps. A row has three of them, so that the stop comes between two rows; and a last batch of
# the test that is not full. What of it a config does not have is left out.
CHANGES = {'epochs': 2, 'data.train_examples': 96, 'batch_size': 24, 'run.log_every': 3}
CHANGES |= {'run.eval_batch_size': 64, 'init.examples': 48}
RUNS = {
  'cifar': (cifar, 'bn,tiny', {**CHANGES, 'model.block_depth': 1, 'ema_epochs': 0.5}),
  'vae': (vae, 'digits-iaf-wn,tiny', CHANGES),
  'draw': (draw, 'wn,tiny', {name: CHANGES[name] for name in CHANGES if name != 'init.examples'}),
}


def main(directory: Path, experiments: list[str]) -> None:
  os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=0'  # or each copy would start anew to set it
  keep_programs_for_all(directory / 'compiled')
  codes = {}
  for experiment in experiments:
    one, two = directory / experiment / 'one', directory / experiment / 'two'
    codes[f'{experiment}, one'] = wait(start(experiment, one))
    address = f'localhost:{free_port()}'
    flags = [f'--coordinator={address}', '--num-processes=2']
    codes[f'{experiment}, stopped'] = wait(
      *(start(experiment, two, i, flags=[*flags, f'--process-id={i}']) for i in (0, 1))
    )
    codes[f'{experiment}, resumed'] = wait(
      *(start(experiment, two, i, env=slurm(i), kills_itself=False) for i in (0, 1))
    )
  flags = [f'--coordinator=localhost:{free_port()}', '--num-processes=2', '--process-id=1']
  codes['alone'] = wait(start('cifar', directory / 'alone', 1, flags=flags, seconds=0.5))
  print(json.dumps(codes))


def keep_programs_for_all(directory):
  """Compiling is most of the work: process 1 finds what process 0 compiled.

  JAX keeps programs for CPUs by, among others, the number of the process, and those of process 0
  only.
  """
  jax.config.update('jax_compilation_cache_dir', str(directory))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_disable_most_optimizations', True)
  cache_key._hash_accelerator_config = lambda hash_, devices: None


def start(experiment, workdir, index=None, *, flags=(), env=None, kills_itself=True, seconds=None):
  """Starts the command of an experiment in a copy of this process; returns the process number.

  Args:
    experiment: key of `RUNS`.
    workdir: of the run.
    index: of the process; None: it is alone.
    flags: of the command line.
    env: environment variables.
    kills_itself: whether process 1 gets a SIGTERM at the beginning of the second epoch.
    seconds: that the processes have to come together.
  """
  pid = os.fork()
  if pid:
    return pid
  code = 1
  try:
    workdir.parent.mkdir(exist_ok=True)
    log = os.open(f'{workdir}-{index}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(env or {})
    module, spec, changes = RUNS[experiment]
    if index is not None:
      jax.config.update('jax_num_cpu_devices', 2)
    processes._SECONDS = seconds or processes._SECONDS
    if index is None or kills_itself:
      module.pictures.write = lambda *_: None  # once is enough
    if index and kills_itself:
      kill_in_second_epoch(module.session)
    overrides = [f'--config.{name}={value}' for name, value in changes.items()]
    config = f'--config=configs/{experiment}.py:{spec}'
    sys.argv = [experiment, config, *overrides, f'--workdir={workdir}', *flags]
    command_line.run(experiment)
    code = 0
    jax.distributed.shutdown()  # as at the end of a process that is not a copy
  except SystemExit as exit_:
    code = exit_.code
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(code)


def kill_in_second_epoch(session):
  original = session.epoch_batches

  def epoch_batches(key, epoch, *sizes):
    if epoch == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(key, epoch, *sizes)

  session.epoch_batches = epoch_batches


def wait(*pids):
  """Their exit codes."""
  return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def slurm(index):
  """What Slurm sets in a step of two tasks; JAX takes the port from the number of the job."""
  job = next(job for job in range(os.getpid(), os.getpid() + 4096) if is_free(61440 + job % 4096))
  return {
    'SLURM_JOB_ID': str(job),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_PROCID': str(index),
    'SLURM_LOCALID': str(index),
  }


def is_free(port):
  try:
    socket.create_server(('', port)).close()
  except OSError:
    return False
  return True


if __name__ == '__main__':
  main(Path(sys.argv[1]), sys.argv[2:])
