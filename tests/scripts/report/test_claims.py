"""The table of claims: its numbers are those of the rows, its verdicts follow the rules."""

import json
import re

import pytest

from scripts.report import claims, seeds
from tests.test_readme import README, ROOT


def test_the_table_in_the_readme_is_that_of_the_results():
  block = re.search(r'<!-- claims -->\n\n(.*?)\n\n<!-- /claims -->', README, re.DOTALL)[1]
  assert block == claims.table(ROOT / 'results')


def write(folder, variant, seed, values, metric='test/nll_bound'):
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
  (claim,) = (claim for claim in claims.CLAIMS if 'DRAW' in claim.text)
  finding = claim.find(tmp_path)
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
    write(tmp_path / 'cifar-paper', variant, 0, [error / 100] * epochs, 'test/error')
  assert claims.CLAIMS[0].find(tmp_path).verdict == verdict


def test_lower_errors_are_better(tmp_path):
  """And other variants beside the pair don't matter."""
  for variant, error in (('wn', 0.10), ('plain', 0.12), ('bn', 0.9)):
    write(tmp_path / 'cifar-fifty', variant, 0, [error], 'test/error')
  assert claims.CLAIMS[1].find(tmp_path).verdict == 'consistent so far'


def test_nothing_recorded(tmp_path):
  assert all(claim.find(tmp_path).verdict == 'not run' for claim in claims.CLAIMS)
  assert '| – | *not run* |' in claims.table(tmp_path)


def test_an_interval_from_three_seeds_on():
  assert seeds.over_seeds([1.0, 2.0], 1) == '1.0, 2.0'
  assert seeds.over_seeds([1.0, 2.0, 3.0], 1) == '2.0 ± 2.5'  # 4.303 / √3
