"""Runs commands of experiments one after the other, in processes that have imported all beforehand.

  python tests/faults/nursery.py EXPERIMENT ...

A line [EXPERIMENT, ARGUMENTS, LOG] on stdin, in JSON, starts one; the answers are its process
number and, when it has ended, its exit code as `subprocess` has it. Imports take most of the time
of a short run, and JAX begins to compute, which a process must not have done before it forks, in
the child only.
"""

import importlib
import json
import os
import signal
import sys
import traceback
import warnings

from experiments.runtime import command_line


def main():
  for experiment in sys.argv[1:]:
    importlib.import_module(f'experiments.{experiment}.train')
  importlib.import_module('sklearn.datasets')
  warnings.filterwarnings('ignore', message='os.fork')
  # Tests that run in the background have SIGINT ignored, and with them what they start.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  for line in sys.stdin:
    experiment, arguments, log = json.loads(line)
    pid = os.fork()
    if not pid:
      run(experiment, arguments, log)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(experiment, arguments, log):
  """Runs the command as `python -m experiments.EXPERIMENT ARGUMENTS`, with its output in a file."""
  descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(descriptor, 1)
  os.dup2(descriptor, 2)
  sys.argv = [f'experiments.{experiment}', *arguments]
  code = 1
  try:
    command_line.run(experiment)
    code = 0
  except SystemExit as exit_:
    code = exit_.code
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(code)


if __name__ == '__main__':
  main()
