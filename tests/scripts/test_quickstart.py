"""The quickstart from end to end."""

import numpy as np
import pandas as pd
import tqdm

from scripts import quickstart


def test_quickstart(tmp_path, capsys):
  quickstart.quickstart(tmp_path, seeds=1, protocol='tiny')
  output = capsys.readouterr().out
  assert f'{tmp_path}/figure1.png' in output and 'scripts/test' in output
  announced, rest = output.split('plain      seed0  test error')
  assert 'plain, wn, wn_mean_bn, 1 seed of each' in announced and 'about 1 min' in announced
  assert 'epoch 1/' not in rest  # of the runs one line each, and one bar for all
  table = output.split('digits, 1 seed:')[1].split('Learning curves')[0].strip().splitlines()
  assert table[0].split() == ['epoch', 'plain', 'wn', 'wn_mean_bn']
  last = pd.read_csv(tmp_path / 'test_error.csv').iloc[-1]
  np.testing.assert_allclose([float(x) for x in table[-1].split()], last)
  for name in ('figure1.png', 'index.html'):
    assert (tmp_path / name).exists()


def test_one_bar_counts_the_epochs_of_all_runs(tmp_path, monkeypatch):
  monkeypatch.setattr(quickstart.sys.stderr, 'isatty', lambda: True, raising=False)
  bars = []

  class Bar(tqdm.tqdm):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      if not self.disable:
        bars.append(self)

  monkeypatch.setattr(tqdm, 'tqdm', Bar)
  for _ in range(2):  # the second finds the runs finished
    quickstart.quickstart(tmp_path, seeds=1, protocol='tiny')
  first, second = bars
  assert first.n == first.total == second.n == 9
