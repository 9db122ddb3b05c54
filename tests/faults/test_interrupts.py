"""SIGINT and SIGTERM: a checkpoint, one line, the code that shells expect; and in time."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.runtime import interrupts
from experiments.runtime.checkpoints import Checkpoints
from experiments.runtime.errors import Interrupted, one_line_errors
from experiments.training import devices, evaluation

ROOT = Path(__file__).parents[2]
RESUME = 'rerun the same command to resume.'


def send(signum):
  return lambda: os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
  'step, signum',
  zip([0, 1, 2, 3, 4, 5, 14], itertools.cycle(interrupts.SIGNALS)),
)
def test_the_step_in_flight_is_saved_and_the_run_goes_on(step, signum, run, before, is_whole):
  with pytest.raises(Interrupted) as error:
    run(train_step=before(step, send(signum)))
  name = signal.Signals(signum).name
  assert str(error.value) == f'stopped at step {step + 1} by {name}; {RESUME}'
  assert run.checkpoints[-1] == step + 1
  is_whole(run, run())


def test_a_run_that_is_interrupted_at_every_step(run, before, is_whole):
  for step in range(15):
    with pytest.raises(Interrupted):
      run(train_step=before(step, send(signal.SIGTERM)))
  is_whole(run, run())


def look_at_signals():
  """As an evaluation does."""
  step = lambda *_: 0
  mesh = devices.data_mesh(1)
  evaluation.sum_over(step, None, (), num_examples=10, batch_size=5, mesh=mesh)


def test_an_interrupted_evaluation_is_done_when_the_run_goes_on(run, is_whole):
  def evaluate(state):
    if int(state.step) == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    look_at_signals()
    return {'test/error': abs(float(state.params['w'][...]) - 0.63)}

  with pytest.raises(Interrupted, match='stopped at step 5 by SIGTERM'):
    run(evaluate=evaluate)
  assert run.checkpoints == [3, 5] and not any('test/error' in row for row in run.rows)
  with pytest.raises(Interrupted):  # again, now at the start
    run(evaluate=evaluate)
  is_whole(run, run())


def test_an_evaluation_that_could_not_be_saved_is_not_counted_twice(run, is_whole, monkeypatch):
  """It is interrupted, and when it is done again, killed between its row and its checkpoint."""
  save = Checkpoints.save

  def interrupted(state):
    os.kill(os.getpid(), signal.SIGTERM)
    look_at_signals()

  def killed_save(self, state, metrics=None, notes=None):
    if metrics:
      raise KeyboardInterrupt
    save(self, state, metrics, notes)

  with pytest.raises(Interrupted):
    run(evaluate=interrupted)
  monkeypatch.setattr(Checkpoints, 'save', killed_save)
  with pytest.raises(KeyboardInterrupt):
    run()
  assert [row['step'] for row in run.rows] == [3, 4, 5, 5]
  monkeypatch.setattr(Checkpoints, 'save', save)
  is_whole(run, run())


def test_the_handlers_are_put_back(run):
  before = [signal.getsignal(signum) for signum in interrupts.SIGNALS]
  run()
  assert [signal.getsignal(signum) for signum in interrupts.SIGNALS] == before
  assert signal.set_wakeup_fd(-1) == -1


def test_a_second_signal_outside_of_a_command_changes_nothing(run, is_whole):
  """As in a notebook, which must not be ended."""

  def evaluate(state):
    for _ in range(3):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(0.01)
    return {'test/error': abs(float(state.params['w'][...]) - 0.63)}

  with pytest.raises(Interrupted, match='stopped at step 6 by SIGINT'):
    run(evaluate=evaluate)
  is_whole(run, run())


def test_a_signal_that_nobody_looked_at_is_not_lost():
  with pytest.raises(Interrupted):
    with interrupts.deferred():
      os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize('signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_codes(signum, code, capsys, monkeypatch):
  codes = []
  monkeypatch.setattr(os, '_exit', codes.append)
  with one_line_errors():
    raise Interrupted(signum, 'at step 7')
  assert codes == [code]
  assert capsys.readouterr().err.startswith('stopped at step 7 by SIG')


WAIT = """
import hashlib, signal, time
from experiments.runtime import interrupts
from experiments.runtime.errors import one_line_errors
{before}
with one_line_errors():
  interrupts.install()
  with interrupts.deferred():
    print('ready', flush=True)
    {wait}
"""


def start(before='', wait='time.sleep(60)'):
  code = WAIT.format(before=before, wait=wait)
  # Tests that run in the background have SIGINT ignored, and with them what they start.
  command = ['env', '--default-signal=INT', sys.executable, '-c', code]
  process = subprocess.Popen(
    command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  assert process.stdout.readline() == 'ready\n'
  return process


@pytest.mark.parametrize(
  'wait',
  [
    'time.sleep(60)',
    "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",  # compiled code, which no handler interrupts
  ],
)
def test_a_program_that_comes_to_no_checkpoint_is_ended(wait):
  process = start('interrupts.SECONDS = 0.3', wait)
  process.send_signal(signal.SIGTERM)
  error = process.communicate(timeout=20)[1]
  assert process.returncode == 143
  assert error == f'stopped after 0 s without a checkpoint by SIGTERM; {RESUME}\n'


def test_a_second_interrupt_ends_it_at_once():
  process = start('interrupts._TWICE = 0.0')
  while process.poll() is None:
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
  assert process.returncode == 130
  error = process.communicate()[1]
  assert error == f'stopped without a checkpoint by SIGINT; {RESUME}\n'


def test_signals_that_come_again_within_a_second_and_further_sigterms_change_nothing():
  process = start('interrupts._TWICE = 99.0')
  for _ in range(5):
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
  assert process.poll() is None
  process.kill()
  assert process.communicate()[1] == ''


def test_signals_that_are_ignored_from_the_start_stay_ignored():
  process = start('signal.signal(signal.SIGTERM, signal.SIG_IGN); interrupts.SECONDS = 0.1')
  process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  assert process.poll() is None
  process.kill()
  process.communicate()
