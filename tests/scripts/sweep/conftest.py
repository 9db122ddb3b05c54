"""A config file with sweeps of trials of one epoch."""

import pytest

CONFIG = """
from configs.cifar import get_config

_SHORT = {'epochs': 1}
SWEEPS = {
  'eight': [
    (f'{v},tiny', {'seed': s, **_SHORT}) for s in (0, 1) for v in ('plain', 'wn', 'bn', 'mean_bn')
  ],
  'four': [(f'{v},tiny', {'seed': s, **_SHORT}) for s in (0, 1) for v in ('plain', 'wn')],
  'bad': [
    ('wn,tiny', {'seed': 0, 'optimizer.learning_rate': 1e30, **_SHORT}),
    ('wn,tiny', {'seed': 1, **_SHORT}),
  ],
  'slurm': [(f'{v},tiny', {'seed': 0, 'epochs': 15}) for v in ('plain', 'wn')],
  'long': [('wn,tiny', {'seed': 0, 'epochs': 10_000})],
  'no_pair': ['wn,tiny'],
  'no_dict': [('wn,tiny', [('seed', 0)])],
  'empty': [],
  'no_seed': [('wn,tiny', {})],
  'rates': [
    (f'{v},tiny', {'seed': 0, 'optimizer.learning_rate': rate})
    for v in ('plain', 'wn_mean_bn')
    for rate in (0.001, 0.003)
  ],
  'typo': [('wn,tiny', {'seed': 0, 'optimizer.learning_rat': 1.0})],
  'no_section': [('wn,tiny', {'seed': 0, 'optimiser.learning_rate': 1.0})],
  'type': [('wn,tiny', {'seed': 'zero'})],
  'spec': [('wm,tiny', {'seed': 0})],
  'twice': [('wn,tiny', {'seed': 0}), ('wn,tiny', {'seed': 0})],
  'same': [('wn,tiny', {'seed': 0}), ('wn,tiny', {'seed': 0, 'epochs': 3})],
}
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / 'sweeps.py'
  path.write_text(CONFIG)
  return path
