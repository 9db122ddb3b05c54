"""The quickstart from end to end."""

import numpy as np
import pandas as pd

from scripts import quickstart


def test_quickstart(tmp_path, capsys):
  quickstart.quickstart(tmp_path, seeds=1, protocol='tiny')
  output = capsys.readouterr().out
  assert f'{tmp_path}/figure1.png' in output and 'scripts/test' in output
  table = output.split('standard error:')[1].split('Report')[0].strip().splitlines()
  assert table[0].split() == ['epoch', 'plain', 'wn', 'wn_mean_bn']
  last = pd.read_csv(tmp_path / 'test_error.csv').iloc[-1]
  np.testing.assert_allclose([float(x) for x in table[-1].split()], last)
  for name in ('figure1.png', 'index.html'):
    assert (tmp_path / name).exists()
