"""The quickstart from end to end."""

import numpy as np
import pandas as pd
import pytest
import tqdm

from scripts import quickstart


@pytest.fixture
def bars(monkeypatch):
  """The progress bars that a terminal would have shown."""
  made = []

  class Bar(tqdm.tqdm):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      if not self.disable:
        made.append(self)

  monkeypatch.setattr(tqdm, 'tqdm', Bar)
  return made


def test_quickstart(tmp_path, capsys, monkeypatch, bars):
  monkeypatch.setattr(quickstart.sys.stderr, 'isatty', lambda: True, raising=False)
  quickstart.quickstart(tmp_path, seeds=1, protocol='tiny')
  output = capsys.readouterr().out
  announced, rest = output.split('plain      seed0  test error')
  assert 'plain, wn, wn_mean_bn, 1 seed of each' in announced and 'about 1 min' in announced
  assert 'epoch 1/' not in rest  # a line for each run, one bar for all
  assert f'{tmp_path}/figure1.png' in rest and 'scripts/test' in rest
  table = rest.split('digits, 1 seed:')[1].split('Learning curves')[0].strip().splitlines()
  assert table[0].split() == ['epoch', 'plain', 'wn', 'wn_mean_bn']
  last = pd.read_csv(tmp_path / 'test_error.csv').iloc[-1]
  np.testing.assert_allclose([float(x) for x in table[-1].split()], last)
  for name in ('figure1.png', 'index.html'):
    assert (tmp_path / name).exists()

  quickstart.quickstart(tmp_path, seeds=1, protocol='tiny')  # finds the runs finished
  first, second = bars
  assert first.n == first.total == second.n == 9
