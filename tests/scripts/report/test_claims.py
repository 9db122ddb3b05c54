"""The table of claims: its numbers are those of the rows, its verdicts follow the rules."""

import json
import re

import pytest

from configs import cifar
from scripts.report import claims, seeds
from tests.test_readme import README, ROOT


def test_the_table_in_the_readme_is_that_of_the_results():
  block = re.search(r'<!-- claims -->\n\n(.*?)\n\n<!-- /claims -->', README, re.DOTALL)[1]
  assert block == claims.table(ROOT / 'results')


def claim_on(text):
  (claim,) = (claim for claim in claims.CLAIMS if text in claim.text)
  return claim


def write(folder, variant, seed, values, metric='test/nll_bound', *, rate=None, **model):
  """Writes the rows of a run; with a rate, in a folder of that name, and a summary."""
  if rate is not None:
    write(folder / variant, f'learning_rate={rate}', seed, values, metric)
    config = {'variant': {'parameterization': variant}, 'optimizer': {'learning_rate': rate}}
    summary = {'config': config | {'model': {'dtype': 'float32'} | model}}
    path = folder / variant / f'learning_rate={rate}' / f'seed{seed}' / 'summary.json'
    path.write_text(json.dumps(summary))
    return
  path = folder / variant / f'seed{seed}'
  path.mkdir(parents=True)
  rows = [
    {'step': epoch, 'epoch': float(epoch), 'seconds': 1.0, metric: value}
    for epoch, value in enumerate(values, start=1)
  ]
  path.joinpath('metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.mark.parametrize(
  'wn, plain, verdict',
  [(100.0, 150.0, 'consistent so far'), (150, 149.5, 'not seen'), (160, 150, 'contradicted')],
)
def test_verdicts(wn, plain, verdict, tmp_path):
  """In the last epoch that both have."""
  write(tmp_path / 'draw-prefix', 'wn', 0, [200, wn, 1])
  write(tmp_path / 'draw-prefix', 'plain', 0, [200, plain])
  finding = claim_on('DRAW').find(tmp_path)
  assert finding.verdict == verdict
  assert f'`wn` −{wn:.1f}' in finding.ours and '2 epochs' in finding.ours
  assert finding.ours.endswith('; `wn` alone −1.0 after 3')


ERRORS = {'plain': 8.5, 'wn': 8.4, 'bn': 8.1, 'mean_bn': 8.6, 'wn_mean_bn': 7.4}


@pytest.mark.parametrize(
  'errors, epochs, verdict',
  [
    (ERRORS, 200, 'reproduced'),
    (ERRORS, 199, 'consistent so far'),
    ({**ERRORS, 'plain': 9.5}, 200, 'consistent so far'),
    ({'wn': 8.4, 'wn_mean_bn': 7.4}, 200, 'consistent so far'),
    ({'wn': 7.0, 'wn_mean_bn': 7.4}, 200, 'contradicted'),
  ],
)
def test_verdicts_on_the_table_of_errors(errors, epochs, verdict, tmp_path):
  for variant, error in errors.items():
    for rate, more in ((0.003, 0.0), (0.01, 0.5)):  # the best rate counts
      values = [(error + more) / 100] * epochs
      write(tmp_path / 'cifar-paper', variant, 0, values, 'test/error', rate=rate)
  assert claim_on('lowest test error').find(tmp_path).verdict == verdict


def test_lower_errors_are_better(tmp_path):
  """And other variants beside the pair don't matter."""
  for variant, error in (('wn', 0.10), ('plain', 0.12), ('bn', 0.9)):
    write(tmp_path / 'cifar-fifty', variant, 0, [error], 'test/error')
  assert claim_on('CIFAR-10: `wn` learns faster').find(tmp_path).verdict == 'consistent so far'


@pytest.mark.parametrize(
  'wn, plain, epochs, verdict',
  [
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.2}, 200, 'reproduced'),
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.2}, 120, 'consistent so far'),
    ({50: 3.9, 100: 1.5}, {50: 4.9, 100: 3.2}, 200, 'consistent so far'),
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.7}, 200, 'consistent so far'),
    ({50: 3.4, 100: 3.3}, {50: 4.9, 100: 3.2}, 200, 'contradicted'),
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.2}, 99, 'not run'),
  ],
)
def test_verdicts_on_the_training_error(wn, plain, epochs, verdict, tmp_path):
  """Means over the two rows of an epoch; the paper has 3.3 and 1.6, 4.8 and 3.1 %."""
  for variant, errors in (('wn', wn), ('plain', plain)):
    folder, rate = tmp_path / 'cifar-paper', cifar.RATE_OF[variant]
    write(folder, variant, 0, [0.1] * epochs, 'test/error', rate=rate)
    write(folder, variant, 0, [0.09] * epochs, 'test/error', rate=0.001)  # not that of Figure 1
    rows = [
      {'step': 0, 'epoch': epoch - half, 'seconds': 1.0, 'train/error': error / 100 + half / 100}
      for epoch, percent in errors.items()
      for half, error in ((0.5, percent - 0.25), (0.0, percent - 0.25))
    ]
    path = folder / variant / f'learning_rate={rate}' / 'seed0' / 'metrics.jsonl'
    with path.open('a') as file:
      file.writelines(json.dumps(row) + '\n' for row in rows)
  finding = claim_on('CIFAR-10: `wn` learns faster').find(tmp_path)
  assert finding.verdict == verdict
  if verdict != 'not run':
    assert finding.ours.startswith(f'`wn` {wn[50]:.1f}, `plain` {plain[50]:.1f} % after 50 epochs;')


@pytest.mark.parametrize(
  'errors, epochs, verdict',
  [
    ({'wn': [8.5], 'plain': [8.1]}, 200, 'reproduced'),
    ({'wn': [8.5], 'plain': [9.1, 8.9]}, 200, 'reproduced'),
    ({'wn': [8.5], 'plain': [9.2, 9.1]}, 200, 'too early'),
    ({'wn': [8.5, 8.6, 9.0, 9.0], 'plain': [9.1, 9.2, 9.3]}, 200, 'too early'),
    ({'wn': [8.5, 8.6, 9.0, 9.0], 'plain': [9.1, 9.2, 9.3, 90.0]}, 200, 'contradicted'),
    ({'wn': [8.5], 'plain': [8.1]}, 199, 'not run'),
    ({'wn': [8.5], 'bn': [8.1]}, 200, 'not run'),
  ],
)
def test_verdicts_on_equal_errors(errors, epochs, verdict, tmp_path):
  """Of the best of the rates that were tried."""
  for variant, of_rates in errors.items():
    for rate, error in zip(cifar.RATES, of_rates):
      values = [error / 100] * epochs
      write(tmp_path / 'cifar-paper', variant, 0, values, 'test/error', rate=rate)
  assert claim_on('equal test errors').find(tmp_path).verdict == verdict


def test_the_text_on_equal_errors_names_the_rates_and_the_released_baseline(tmp_path):
  folder = tmp_path / 'cifar-paper'
  for variant, rate, error in (
    ('wn', 0.003, 0.082),
    ('plain', 0.001, 0.09),
    ('plain', 0.0003, 0.1),
    ('plain_released', 0.001, 0.085),
  ):
    write(folder, variant, 0, [error] * 200, 'test/error', rate=rate, dtype='bfloat16')
  assert claim_on('equal test errors').find(tmp_path).ours == (
    '`wn` 8.20, `plain` 9.00 % after 200 epochs (the best of `wn` at 0.003; `plain` at 0.0003, '
    "0.001; 1 seed, hidden units in bfloat16); `plain` as in the authors' code 8.50"
  )


def test_unfinished_runs_count_for_no_claim(tmp_path):
  for variant, error in ERRORS.items():
    write(tmp_path / 'cifar-paper', variant, 0, [error / 100] * 200, 'test/error', rate=0.003)
  write(tmp_path / 'cifar-paper' / 'mean_bn', 'learning_rate=0.001', 0, [0.01], 'test/error')
  assert claim_on('lowest test error').find(tmp_path).verdict == 'reproduced'


def test_hidden_units_in_bfloat16_are_told(tmp_path):
  for name, dtype, end in (
    ('a', 'float32', '(1 seed)'),
    ('b', 'bfloat16', '(1 seed, hidden units in bfloat16)'),
  ):
    folder = tmp_path / name / 'cifar-paper'
    write(folder, 'wn_mean_bn', 0, [0.08], 'test/error', rate=0.003, dtype=dtype)
    ours = claim_on('lowest test error').find(tmp_path / name).ours
    assert ours == f'`wn_mean_bn` 8.00 % after 1 epochs {end}'


@pytest.mark.parametrize(
  'wn, plain, verdict',
  [
    ([20, 18, 17, 19], [30, 21, 40, 90], 'consistent so far'),  # 33 against 1 times
    ([20, 18, 17, 30], [22, 21, 25, 90], 'not seen'),
    ([20, 30, 31, 90], [22, 21, 25, 90], 'contradicted'),
    ([20, 18, 17], [30, 21, 40, 90], 'too early'),
    ([20, 18, 17, 19], [30, 21, None, None], 'consistent so far'),  # it diverged
  ],
)
def test_the_range_of_usable_rates(wn, plain, verdict, tmp_path):
  for variant, errors in (('wn', wn), ('plain', plain), ('bn', [1])):
    for rate, error in zip(cifar.RATES, errors):
      values = [0.9] * 11 + ([] if error is None else [error / 100])
      folder = tmp_path / 'cifar-scaled' / variant
      write(folder, f'learning_rate={rate}', 0, values, 'test/error')
  finding = claim_on('wider range').find(tmp_path)
  assert finding.verdict == verdict
  assert f'`wn` {wn[0]:.1f} at 0.0003, {wn[1]:.1f} at 0.001' in finding.ours


def test_no_difference_where_the_paper_sees_none_yet(tmp_path):
  for epochs, verdict in ((79, 'too early'), (80, 'not seen')):
    for variant in ('mnist-iaf-wn', 'mnist-iaf-plain'):
      write(tmp_path / str(epochs) / 'vae-mnist', variant, 0, [90.0] * epochs)
    assert claim_on('VAE').find(tmp_path / str(epochs)).verdict == verdict


def test_nothing_recorded(tmp_path):
  assert all(claim.find(tmp_path).verdict == 'not run' for claim in claims.CLAIMS)
  assert '| – | *not run* |' in claims.table(tmp_path)


def test_an_interval_from_three_seeds_on():
  assert seeds.over_seeds([1.0, 2.0], 1) == '1.0, 2.0'
  assert seeds.over_seeds([1.0, 2.0, 3.0], 1) == '2.0 ± 2.5'  # 4.303 / √3
