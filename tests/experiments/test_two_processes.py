"""Two processes train, stop and go on as one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import cifar as cifar_config
from experiments.cifar import train as cifar
from experiments.runtime import processes
from experiments.runtime.errors import UserError
from experiments.runtime.metrics import read_rows
from tests import configurations
from tests.experiments import two_processes
from tests.experiments.rows import largest_difference

ROOT = Path(__file__).parents[2]


def train(directory, *experiments):
  """Their runs; returns the exit codes."""
  command = [sys.executable, '-m', 'tests.experiments.two_processes', directory, *experiments]
  result = subprocess.run(command, check=True, cwd=ROOT, env=os.environ, capture_output=True)
  return json.loads(result.stdout.splitlines()[-1])


def check(directory, codes, experiment, figures):
  """Against the run of one process."""
  logs = [(directory / experiment / f'two-{i}.log').read_text() for i in (0, 1)]
  assert codes[f'{experiment}, one'] == [0]
  assert codes[f'{experiment}, stopped'] == [143, 143], logs  # the signal came to process 1 only
  assert codes[f'{experiment}, resumed'] == [0, 0], logs
  for log in logs:
    assert 'stopped at step 6 by SIGTERM; rerun the same command to resume.' in log.splitlines()
  first, second = logs
  assert first.count('2 processes with 4 devices\n') == 2
  assert 'resuming at step 6 of 8' in first and 'epoch' not in second

  one, two = (read_rows(directory / experiment / name / 'metrics.jsonl') for name in ('one', 'two'))
  assert [row['step'] for row in one] == [3, 4, 4, 6, 8, 8]
  figures(
    f'two-processes-{experiment}',
    {'largest relative error of a metric': largest_difference(two, one)},
  )


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  return tmp_path_factory.mktemp('processes')


@pytest.fixture(scope='module')
def codes(directory):
  return train(directory, 'cifar')


def test_cifar(directory, codes, figures):
  check(directory, codes, 'cifar', figures)


@pytest.mark.long
@pytest.mark.parametrize('experiment', ['vae', 'draw'])
def test_others(experiment, tmp_path, figures):
  check(tmp_path, train(tmp_path, experiment), experiment, figures)


def test_one_process_reads_what_two_have_written(directory, codes):
  """And the pictures of a run come from process 0."""
  _, spec, changes = two_processes.RUNS['cifar']
  config = configurations.frozen(cifar_config, spec, changes)
  one, two = (
    cifar.restore_model(config, directory / 'cifar' / name, (16, 16, 1), 10)
    for name in ('one', 'two')
  )
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, *(jax.tree.leaves(cifar.nnx.state(model)) for model in (one, two)))
  assert (directory / 'cifar' / 'two' / 'filters.png').exists()


def test_a_process_that_nobody_comes_to_ends_with_one_line(directory, codes):
  assert codes['alone'] == [2]
  (line,) = (directory / 'alone-1.log').read_text().splitlines()
  assert line.startswith('error: the processes did not connect at localhost:')


ALL = ('node1:1234', 4, 3)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('node1:1234', None, None), '--num-processes is missing'),
    (('node1:1234', 4, None), '--process-id is missing'),
    ((None, 4, 0), '--coordinator is missing'),
    ((None, None, 0), '--coordinator is missing'),
    (('auto', 4, None), '--process-id is missing'),
    (('node1', 4, 0), '--coordinator node1 is not HOST:PORT'),
    ((':1234', 4, 0), '--coordinator :1234 is not HOST:PORT'),
    (('node1:http', 4, 0), '--coordinator node1:http is not HOST:PORT'),
    (('node1:65536', 4, 0), '--coordinator node1:65536 is not HOST:PORT'),
    (('node1:1234', 0, 0), '--num-processes 0 must be 1 or more'),
    (('node1:1234', 4, 4), '--process-id 4 must be at least 0 and below --num-processes, which'),
    (('node1:1234', 4, -1), '--process-id -1 must be at least 0'),
  ],
)
def test_mistakes(arguments, message):
  with pytest.raises(UserError, match=message):
    processes.find(*arguments)


@pytest.mark.parametrize(
  'slurm, arguments, expected',
  [
    ({}, (None, None, None), None),
    ({}, ALL, processes.Place(*ALL)),
    ({}, ('node1:1234', 1, 0), None),
    ({}, ('auto', None, None), processes.AUTO),
    ({'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '4'}, (None, None, None), processes.AUTO),
    ({'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '4'}, ALL, processes.Place(*ALL)),
    ({'SLURM_NTASKS': '1', 'SLURM_STEP_NUM_TASKS': '1'}, (None, None, None), None),  # a sweep's
    ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, (None, None, None), None),  # a batch script
  ],
)
def test_where_a_process_is(slurm, arguments, expected, monkeypatch):
  for name in ('SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID'):
    monkeypatch.delenv(name, raising=False)
  for name, value in slurm.items():
    monkeypatch.setenv(name, value)
  assert processes.find(*arguments) == expected


def test_an_address_that_cannot_be_used():
  with two_processes.socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(UserError, match=f'localhost:{port} is taken; choose another port'):
      processes._connect(processes.Place(f'localhost:{port}', 2, 0))
  with pytest.raises(UserError, match=r'nowhere\.invalid:1234 cannot be used'):
    processes._connect(processes.Place('nowhere.invalid:1234', 2, 1))
