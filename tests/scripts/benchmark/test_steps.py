"""How steps are timed, what the tables say of them, and on which device and machine."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from experiments.runtime.errors import UserError
from scripts.benchmark import stepper, steps, worker
from scripts.benchmark.worker import Row

SIZE = {'width': 4, 'batch': 4}


def test_a_step_is_the_mean_of_several_when_it_is_short(monkeypatch, capsys):
  """An untimed one comes first, and all are waited for."""
  now, log = [0.0], []

  def take():
    log.append('take')

  def wait():
    now[0] += 0.03 * (len(log) - log.count('wait') - taken[0])
    taken[0] = len(log) - log.count('wait')
    log.append('wait')

  taken = [0]
  monkeypatch.setattr(worker.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(sys, 'stdin', ['\n'])
  worker.serve(lambda: stepper.Stepper(take, wait))
  first, seconds, _ = map(json.loads, capsys.readouterr().out.splitlines())
  assert first == pytest.approx(0.03) and seconds == pytest.approx(0.03)
  assert log == ['take', 'wait'] * 4 + ['take'] * 4 + ['wait']  # 0.1 s of steps of 0.03 s


def test_name_of_a_row():
  row = Row('jax', 'wn', 'float32', 'direct', width=16)
  assert row.name == 'jax wn float32 direct'
  assert str(row) == 'jax wn float32 direct, width 16, batch 100, depth 3'
  row = Row('torch', 'plain', 'float32', 'eager', 'draw', width=None, depth=None)
  assert str(row) == 'torch plain float32 eager, batch 100'


def test_a_row_that_fails_has_its_last_line():
  _, (failure,) = steps.measure([Row('jax', 'unknown', 'float32', 'direct', **SIZE)], 1)
  assert failure.startswith('jax unknown float32 direct failed: ')
  assert '\n' not in failure


def test_user_error_is_what_a_worker_raises():
  with pytest.raises(UserError, match='no_such_framework plain float32 direct failed: KeyError'):
    steps.Worker(Row('no_such_framework', 'plain', 'float32', 'direct', **SIZE))


def made_up(framework, *rounds):
  return {
    'framework': framework, 'variant': 'plain', 'dtype': 'float32', 'mode': 'x', 'width': 96,
    'batch': 100, 'depth': 3, 'seconds': float(np.median(rounds)), 'rounds': list(rounds),
    'peak_memory_gb': 1.0,
  }  # fmt: skip


def test_ratios_are_taken_within_the_rounds():
  # The machine is twice as slow in the second round, and the third has an outlier.
  rows = [made_up('jax', 1.0, 2.0, 2.0), made_up('torch', 1.5, 3.0, 2.0)]
  ours, torch = steps.table(rows, 1000.0).splitlines()[2:]
  assert '| 2000.0 | 1000.0–2000.0 | 1.00 | 0.67 |' in ours
  assert '| 2000.0 | 1500.0–3000.0 | 1.50 | 1.00 |' in torch


def test_table_has_ratios_to_both():
  make = made_up
  ours, torch = steps.table([make('jax', 0.5), make('torch', 1.0)], 1000.0).splitlines()[2:]
  assert '| 1.00 | 0.50 | 1.00 | 478 | 48 % |' in ours
  assert '| 2.00 | 1.00 | 1.00 | 239 | 24 % |' in torch
  assert '| 1.00 | – |' in steps.table([make('jax', 0.5)], 1000.0)


def test_table_without_float32_compares_what_there_is():
  """And JAX does not tell the peak memory on every GPU."""
  rows = [made_up(name, seconds) for name, seconds in (('jax', 0.00142), ('torch', 0.00375))]
  rows = [row | {'dtype': 'bfloat16', 'peak_memory_gb': None} for row in rows]
  ours, torch = steps.table(rows).splitlines()[2:]
  assert ours.endswith('| 1.42 | 1.42–1.42 | 1.00 | 0.38 | – |')
  assert torch.endswith('| 3.75 | 3.75–3.75 | 2.64 | 1.00 | – |')
  rows.append(made_up('jax', 0.00284))  # float32 comes first where there is some
  assert '| 0.50 | 0.38 |' in steps.table(rows)


@pytest.mark.parametrize(
  'stats, peak', [(None, None), ({'peak_bytes_in_use': 0}, None), ({'peak_bytes_in_use': 2e9}, 2.0)]
)
def test_peak_memory_on_a_gpu(monkeypatch, stats, peak):
  device = mock.Mock(memory_stats=lambda: stats)
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  monkeypatch.setattr(stepper.sys, 'modules', {'jax': mock.Mock(local_devices=lambda: [device])})
  assert stepper.peak_memory_gb() == peak


def test_without_a_peak_there_are_no_rates():
  header, _, row = steps.table([made_up('jax', 0.5)]).splitlines()
  assert header.endswith('| GB |') and row.endswith('| 1.00 | – | 1.00 |')


def test_a_benchmark_says_where_it_ran():
  machine = {
    'processor': 'AMD EPYC',
    'instructions': ['avx2', 'avx512f'],
    'cores': 2,
    'versions': {'jax': '0.10.2', 'flax': '0.12.8'},
    'environment': {'XLA_FLAGS': '--xla_x=1', 'GLIBC_TUNABLES': None},
  }
  expected = '2 cores of AMD EPYC, avx2, avx512f; jax 0.10.2, flax 0.12.8\nXLA_FLAGS=--xla_x=1'
  assert steps.describe(machine) == expected
  ours = steps.machine()
  assert set(machine) < set(ours) and steps.describe(ours).count('\n') == 1


def test_processor_of_a_machine(tmp_path):
  """With its numbers, as virtual machines may be told no more than 'AMD EPYC'."""
  cpuinfo = tmp_path / 'cpuinfo'
  cpuinfo.write_text(
    'model name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 17\nflags\t\t: fpu avx2\n'
  )
  assert steps._processor(cpuinfo) == ('AMD EPYC (cpu family 25, model 17)', ['avx2'])
  cpuinfo.write_text('Features\t: fp asimd\n')  # of an ARM
  assert steps._processor(cpuinfo) == (platform.machine(), [])
  assert steps._processor(tmp_path / 'missing')[1] == []


def test_one_gpu_is_chosen(monkeypatch):
  monkeypatch.setattr(stepper.subprocess, 'run', lambda *_, **__: mock.Mock(returncode=0))
  for visible, chosen in ((None, '0'), ('3,5', '3')):
    environ = {} if visible is None else {'CUDA_VISIBLE_DEVICES': visible}
    monkeypatch.setattr(stepper.os, 'environ', environ)
    stepper.use('gpu')
    assert environ['CUDA_VISIBLE_DEVICES'] == chosen and environ['JAX_PLATFORMS'] == 'cuda'
    assert stepper.is_on_gpu()
    stepper.use('cpu')
    assert not stepper.is_on_gpu() and stepper.peak_memory_gb() > 0.01


@pytest.mark.skipif(Path('/dev/nvidia0').exists(), reason='there is a GPU')
def test_device_without_a_gpu_is_one_line():
  """JAX does not fall back to the CPU in silence."""
  arguments = ['vae', '--device', 'gpu', '--framework', 'jax', '--rounds', '1']
  result = subprocess.run(
    [sys.executable, '-m', 'scripts.benchmark', *arguments], capture_output=True, text=True
  )
  assert (result.returncode, result.stdout) == (2, '')
  assert result.stderr.startswith('error: --device gpu: JAX finds no GPU (')
  assert result.stderr.endswith("); pip install 'jax[cuda13]' adds its support.\n")
  assert result.stderr.count('\n') == 1
