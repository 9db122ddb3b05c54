"""What of the metrics a line of a terminal shows."""

from pathlib import Path

import pytest

from experiments.runtime import metrics


@pytest.mark.parametrize(
  'name, expected',
  [
    ('test/kl_12', True),
    ('diagnostics/encoder.ii/v_norm', True),
    ('test/kl', False),
    ('test/nll_bound', False),
    ('test/bits_per_dim', False),
  ],
)
def test_parts_of_another_metric_are_not_shown(name, expected, capsys):
  assert metrics.is_part(name) == expected
  metrics.Progress(Path('run'), 1, 0, 1).epoch(1, 0.0, {name: 1.5})
  assert (name in capsys.readouterr().out) != expected
