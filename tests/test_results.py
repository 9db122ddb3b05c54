"""What README.md and docs/results.md say beside the generated blocks is in the rows."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.runtime.metrics import read_rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'results.md').read_text()
README = ' '.join((ROOT / 'README.md').read_text().split())
EPOCHS = (10, 25, 50, 60, 80)
FOLDERS = {'float32': 'cifar-paper-float32', 'bfloat16': 'cifar-paper'}


def training_errors(path):
  """Mean training error in % of each finished epoch."""
  rows = [row for row in read_rows(path) if 'train/error' in row]
  last = math.floor(rows[-1]['epoch'])
  return {
    epoch: 100 * np.mean([row['train/error'] for row in rows if math.ceil(row['epoch']) == epoch])
    for epoch in range(1, last + 1)
  }


@pytest.mark.parametrize('dtype', FOLDERS)
@pytest.mark.parametrize('rate', ['0.003', '0.001'])
def test_training_errors_of_mean_bn(dtype, rate):
  (cells,) = re.findall(rf'^\| {rate} \| {dtype} \| (.*) \|$', PAGE, re.MULTILINE)
  run = ROOT / 'results' / FOLDERS[dtype] / 'mean_bn' / f'learning_rate={rate}' / 'seed0'
  errors = training_errors(run / 'metrics.jsonl')
  assert cells.split(' | ') == [f'{errors[e]:.1f}' if e in errors else '–' for e in EPOCHS]


def test_errors_after_fifty_epochs():
  def error(run):
    path = ROOT / 'results' / 'cifar-fifty' / run / 'seed0' / 'summary.json'
    return f'{100 * json.loads(path.read_text())["final"]["test/error"]:.1f}'

  plain = [error(f'plain{rate}') for rate in ('', '/learning_rate=0.001', '/learning_rate=0.003')]
  assert error('wn') == error('mean_bn')
  assert (
    f'lowest test error, {error("wn_mean_bn")} %, then `bn` {error("bn")}, '
    f'`wn` and `mean_bn` {error("wn")}, and `plain` {min(plain, key=float)}, at the best of three'
  ) in README
  text = f'ends at {plain[0]} %, at 0.001 at {plain[1]} and at 0.003, the rate of the others, at'
  assert f'{text} {plain[2]}.' in ' '.join(PAGE.split())
