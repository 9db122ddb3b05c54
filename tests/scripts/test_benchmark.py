"""The benchmarks at a tiny size: what they write, and what they say to bad input. No times."""

import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib.image
import numpy as np
import pytest
from ml_collections import config_dict

from configs import dqn as dqn_configs
from configs.variants import CIFAR_PARAMETERIZATIONS
from experiments.runtime.errors import UserError
from experiments.training.state import num_params
from scripts.benchmark import __main__ as command
from scripts.benchmark import cifar_step, dqn, single_steps, stepper, steps, whole_runs, worker
from scripts.benchmark.single_environment import JaxAgent, SingleEnvironment, TorchAgent
from scripts.benchmark.worker import Row

SIZE = {'width': 4, 'batch': 4}


@pytest.fixture
def benchmark(monkeypatch):
  """Calls the command in this process."""

  def call(*arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark', *map(str, arguments)])
    monkeypatch.setattr(command.environment, 'prepare', lambda **_: None)
    monkeypatch.setattr(command.stepper, 'use', devices.append)
    command.main()

  devices = call.devices = []

  return call


def test_operations_of_a_step_are_the_hand_count():
  """Multiplications per image: forward and two gradients, but no gradient of the images."""
  first = 32 * 32 * 27 * 96
  rest = (
    2 * 32 * 32 * 864 * 96
    + 16 * 16 * (864 + 2 * 1728) * 192
    + 6 * 6 * (1728 + 2 * 192) * 192
    + 192 * 10
  )
  assert cifar_step.gflop(96, 100, 3) == pytest.approx(2e-9 * 100 * (2 * first + 3 * rest))


def test_without_torch_the_other_rows_are_measured(benchmark, tmp_path, monkeypatch, capsys):
  rows = [
    Row('jax', 'plain', 'float32', 'winograd', **SIZE),
    Row('flax.linen', 'wn', 'float32', 'direct', **SIZE),
    Row('jax', 'unknown', 'float32', 'winograd', **SIZE),
    Row('torch', 'plain', 'float32', 'eager', **SIZE),
  ]
  monkeypatch.setattr(single_steps, '_cifar_rows', lambda *_: rows)
  monkeypatch.setattr(steps.importlib.util, 'find_spec', lambda name: None)
  benchmark('cifar', '--width', 4, '--batch', 4, '--rounds', 3, '--json', tmp_path / 'x.json')
  output = capsys.readouterr()
  assert (
    "left out: PyTorch is not installed; `pip install -e '.[bench]'` adds its rows." in output.err
  )
  assert 'left out: jax unknown float32 winograd failed: ' in output.err
  assert '| jax plain float32 winograd |' in output.out

  content = json.loads((tmp_path / 'x.json').read_text())
  assert [(r['framework'], r['variant'], r['dtype'], r['mode']) for r in content['rows']] == [
    ('jax', 'plain', 'float32', 'winograd'),
    ('flax.linen', 'wn', 'float32', 'direct'),
  ]
  for row in content['rows']:
    assert len(row['rounds']) == 3 and row['seconds'] == np.median(row['rounds'])
    assert row['peak_memory_gb'] > 0.1
  assert content['machine']['versions']['jax'] and content['matmul_gflops'] > 0
  assert matplotlib.image.imread(tmp_path / 'x.png').ndim == 3


def test_scaling_along_batch_width_and_depth(benchmark, tmp_path, monkeypatch, capsys):
  measured = []

  def measure(rows, rounds):
    measured.extend(rows)
    row = {'seconds': 0.5, 'rounds': [0.4, 0.5, 0.6]}
    sizes = [{'batch': r.batch, 'width': r.width, 'depth': r.depth} for r in rows]
    return [row | size for size in sizes], []

  monkeypatch.setattr(steps, 'measure', measure)
  benchmark('scaling', '--rounds', 3, '--width', 32, '--json', tmp_path / 'x.json')
  assert len(set(measured)) == len(measured)
  varied = {(r.batch != 100) + (r.width != 32) + (r.depth != 3) for r in measured}
  assert varied == {0, 1}  # one size at a time
  lines = capsys.readouterr().out.strip().splitlines()
  assert len(lines) == 3 + 2 + len(measured)  # the machine and a blank line, the header
  assert matplotlib.image.imread(tmp_path / 'x.png').ndim == 3


def test_deeper_network_has_more_layers():
  one, five = (cifar_step.gflop(96, 100, depth) for depth in (1, 5))
  assert five - one == pytest.approx(
    2e-9 * 100 * 3 * 4 * (32 * 32 * 864 * 96 + 16 * 16 * 1728 * 192)
  )


def test_rows_name_every_parameterization_and_both_dtypes():
  rows = single_steps._cifar_rows(96, 100, 'cpu')
  ours = {row.variant for row in rows if row.framework == 'jax'}
  assert ours == set(CIFAR_PARAMETERIZATIONS)
  for framework in ('jax', 'torch'):
    assert {row.dtype for row in rows if row.framework == framework} == {'float32', 'bfloat16'}
  assert len(set(rows)) == len(rows)


def test_only_the_rows_asked_for(benchmark, monkeypatch, capsys):
  measured = []
  monkeypatch.setattr(steps, 'measure', lambda rows, rounds: (measured.extend(rows), ([], []))[1])
  with pytest.raises(SystemExit):
    benchmark('cifar', '--framework', 'jax', '--dtype', 'bfloat16')
  assert [row.name for row in measured] == [
    'jax plain bfloat16 winograd', 'jax wn bfloat16 winograd'
  ]  # fmt: skip
  assert capsys.readouterr().err == 'error: no row could be measured; see above.\n'


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


def test_without_a_peak_there_are_no_rates():
  header, _, row = steps.table([made_up('jax', 0.5)]).splitlines()
  assert header.endswith('| GB |') and row.endswith('| 1.00 | – | 1.00 |')


def test_epoch_is_measured_beside_its_steps():
  """The stopwatch takes the steps once more after each evaluation and changes nothing."""
  calls, done = [], []

  def train_step(state, indices):
    calls.append(indices)
    return state + 1, {}

  stopwatch = whole_runs._Stopwatch(
    compile_steps=lambda: (train_step, None),
    before_evaluation=lambda run, state: None,
    epoch_done=lambda run, state, results: done.append((state, results)),
  )
  step, _ = stopwatch.compile_steps()
  before_evaluation, epoch_done = stopwatch.before_evaluation(), stopwatch.epoch_done()
  state = 0
  for _ in range(2):
    for indices in (1, 2, 3):
      state, _ = step(state, indices)
    before_evaluation(None, state)
    epoch_done(None, state, {'test/error': 0.5})
  assert done == [(3, {'test/error': 0.5}), (6, {'test/error': 0.5})]
  assert calls == [1, 2, 3] * 4
  assert len(stopwatch.rounds) == 2
  for seconds in stopwatch.rounds:
    assert 0 <= seconds['evaluation'] <= seconds['epoch'] and seconds['steps'] >= 0


def test_startup_reports_a_run_that_fails(benchmark, capsys, tmp_path):
  with pytest.raises(SystemExit):
    benchmark('startup', '--rounds', 1, '--data_dir', tmp_path / 'nothing')
  assert 'error: the run failed: error: ' in capsys.readouterr().err


def test_startup_of_every_experiment(benchmark, capsys, monkeypatch, tmp_path):
  """With the filled cache after the empty one, in a folder of its own for each."""
  folders = []

  def first_step(experiment, args, folder, name):
    folders.append((experiment, folder))
    return 30.0 + len(folders) if name == '0' else 10.0

  monkeypatch.setattr(whole_runs, '_first_step', first_step)
  benchmark('startup', '--rounds', 2, '--json', tmp_path / 'startup.json')
  assert [experiment for experiment, _ in folders[::2]] == 2 * ['cifar', 'vae', 'draw', 'dqn']
  assert len({folder for _, folder in folders}) == len(folders) / 2 == 8
  said = capsys.readouterr().out
  assert said.startswith(f'{steps.machine()["cores"]} cores of ')
  assert 'configs/cifar.py:wn,scaled, cold cache: 35.0 s (31.0–39.0)' in said
  assert 'configs/dqn.py:breakout-wn,short, warm cache: 10.0 s (10.0–10.0)' in said
  assert len(json.loads((tmp_path / 'startup.json').read_text())['rounds']) == 2


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


def test_a_row_that_fails_has_its_last_line():
  _, (failure,) = steps.measure([Row('jax', 'unknown', 'float32', 'direct', **SIZE)], 1)
  assert failure.startswith('jax unknown float32 direct failed: ')
  assert '\n' not in failure


def test_user_error_is_what_a_worker_raises():
  with pytest.raises(UserError, match='no_such_framework plain float32 direct failed: KeyError'):
    steps.Worker(Row('no_such_framework', 'plain', 'float32', 'direct', **SIZE))


def test_agent_steps_are_measured_in_turns(benchmark, tmp_path, monkeypatch, capsys):
  turns = []

  class Process:
    first_step_seconds = 1.0

    def __init__(self, param, kind):
      if kind == 'act' and param == 'plain':
        raise UserError('plain, act failed: for a reason')
      self.name = (param, kind)

    def step(self):
      turns.append(self.name)
      return float(len(turns))

    close = lambda self: 0.5
    kill = lambda self: None

  monkeypatch.setattr(dqn, '_start', Process)
  monkeypatch.setattr(steps.importlib.util, 'find_spec', lambda name: None)
  benchmark('dqn', '--rounds', 2, '--json', tmp_path / 'x.json')
  errors = capsys.readouterr().err
  assert 'left out: plain, act failed: for a reason' in errors
  assert f'left out: {steps.NO_TORCH}' in errors
  content = json.loads((tmp_path / 'x.json').read_text())
  assert [(row['param'], row['kind']) for row in content['rows']] == turns[:9]
  assert turns == 3 * turns[:9] and len(set(turns)) == 9  # the first round is untimed
  assert content['rows'][0]['rounds'] == [10.0, 19.0]


def test_the_loop_that_ours_is_measured_against_has_the_same_ratio():
  config = dqn_configs.get_config('breakout-plain,tiny')
  agent = SingleEnvironment(config_dict.FrozenConfigDict(config), JaxAgent)
  for count in range(1, 121):
    agent.step()
    assert (agent.steps, agent.updates) == (count, max(0, count - 80) // 4)


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


@pytest.mark.parametrize('name', ['vae', 'draw'])
def test_generative_models_beside_pytorch(benchmark, monkeypatch, capsys, name):
  measured = []
  monkeypatch.setattr(steps.importlib.util, 'find_spec', lambda name: True)
  monkeypatch.setattr(steps, 'measure', lambda rows, rounds: (measured.extend(rows), ([], []))[1])
  for device in ('cpu', 'gpu'):
    with pytest.raises(SystemExit):
      benchmark(name, '--batch', 7, '--device', device)
  assert benchmark.devices == ['cpu', 'gpu']
  assert {(row.experiment, row.width, row.batch) for row in measured} == {(name, None, 7)}
  assert [(row.framework, row.variant, row.mode) for row in measured[:4]] == [
    ('jax', 'plain', 'direct'), ('jax', 'wn', 'direct'),
    ('torch', 'plain', 'eager'), ('torch', 'plain', 'compile'),
  ]  # fmt: skip
  assert {row.dtype for row in measured[:4]} == {'float32'}
  assert {row.dtype for row in measured[4:]} == {'float32', 'bfloat16'}


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('vae', '--width', 8), '--width 8: vae has no such choice.'),
    (('dqn', '--dtype', 'float32'), '--dtype float32: dqn has no such choice.'),
    (('startup', '--batch', 3), '--batch 3: startup has no such choice.'),
    (('cifar', '--data_dir', 'x'), '--data_dir x: cifar has no such choice.'),
    (('scaling', '--framework', 'jax'), '--framework jax: scaling has no such choice.'),
    (('draw', '--dtype', 'bfloat16'), 'draw has no row with this --framework and --dtype.'),
    (('vae', '--framework', 'flax.linen'), 'vae has no row with this --framework and --dtype.'),
  ],
)
def test_arguments_without_rows(benchmark, capsys, arguments, message):
  with pytest.raises(SystemExit):
    benchmark(*arguments)
  assert capsys.readouterr().err == f'error: {message}\n'


def test_name_of_a_row():
  row = Row('jax', 'wn', 'float32', 'direct', width=16)
  assert row.name == 'jax wn float32 direct'
  assert str(row) == 'jax wn float32 direct, width 16, batch 100, depth 3'
  row = Row('torch', 'plain', 'float32', 'eager', 'draw', width=None, depth=None)
  assert str(row) == 'torch plain float32 eager, batch 100'


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


def test_on_a_gpu_there_is_no_winograd():
  rows = single_steps._cifar_rows(96, 100, 'gpu')
  assert {row.mode for row in rows} == {'direct', 'eager', 'compile'}
  assert len(set(rows)) == len(rows)


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


@pytest.mark.parametrize('name', ['vae', 'draw'])
def test_our_step_of_a_generative_model(name):
  build = importlib.import_module(f'scripts.benchmark.{name}_step').build
  steps_ = build(Row('jax', 'wn', 'float32', 'direct', name, batch=2))
  steps_.take()
  steps_.wait()


@pytest.mark.parametrize('name', ['cifar', 'vae', 'draw'])
def test_port_has_as_many_parameters_and_takes_a_step(name, monkeypatch):
  optimizer_lib = pytest.importorskip('torch.optim.optimizer')
  optimizers = []
  build = importlib.import_module(f'scripts.benchmark.{name}_step').build
  hook = optimizer_lib.register_optimizer_step_post_hook(
    lambda optimizer, *_: optimizers.append(optimizer)
  )
  port = build(Row('torch', 'plain', 'float32', 'eager', name, width=4, batch=2))
  port.take()
  port.wait()
  hook.remove()
  states = []
  monkeypatch.setattr(stepper, 'of_jax', lambda step, state, arguments: states.append(state))
  build(Row('jax', 'plain', 'float32', 'direct', name, width=4, batch=2))
  count = sum(p.numel() for group in optimizers[0].param_groups for p in group['params'])
  assert count == num_params(states[0].params)


def test_port_of_the_agent():
  pytest.importorskip('torch')
  config = config_dict.FrozenConfigDict(dqn_configs.get_config('breakout-plain,tiny'))
  agent = SingleEnvironment(config, TorchAgent)
  for _ in range(90):
    agent.step()
  assert agent.updates == 2


def test_ratio_of_agent_steps():
  rows = [
    {'param': 'wn', 'kind': kind, 'rounds': rounds, 'seconds': float(np.median(rounds)),
     'count': 240, 'peak_memory_gb': 1.0}
    for kind, rounds in (('ours', [1.0, 2.0, 2.0]), ('single environment', [2.0, 4.0, 3.0]))
  ]  # fmt: skip
  ours, single = dqn.table(rows).splitlines()[2:]
  assert '| wn | agent steps: ours | 120 | 8.33 | 4.17–8.33 | 1.00 (1.00–1.00) |' in ours
  assert '| 80 | 12.50 | 8.33–16.67 | 2.00 (1.50–2.00) |' in single
