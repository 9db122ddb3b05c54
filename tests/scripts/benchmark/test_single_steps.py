"""Benchmarks of single steps at a tiny size: their rows and what they write. No times."""

import json

import matplotlib.image
import numpy as np
import pytest

from configs.variants import CIFAR_PARAMETERIZATIONS
from scripts.benchmark import cifar_step, single_steps, steps
from scripts.benchmark.worker import Row

SIZE = {'width': 4, 'batch': 4}


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


def test_on_a_gpu_there_is_no_winograd():
  rows = single_steps._cifar_rows(96, 100, 'gpu')
  assert {row.mode for row in rows} == {'direct', 'eager', 'compile'}
  assert len(set(rows)) == len(rows)


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
