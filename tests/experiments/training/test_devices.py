"""XLA flags and the mesh."""

import jax
import pytest

from experiments.training import devices
from experiments.training.errors import UserError

OURS = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE'


@pytest.mark.parametrize(
  'before, after',
  [
    (None, OURS),
    ('--xla_dump_to=x', f'--xla_dump_to=x {OURS}'),
    ('--xla_cpu_experimental_ynn_fusion_type=X', '--xla_cpu_experimental_ynn_fusion_type=X'),
  ],
)
def test_flags_of_the_user_stay(monkeypatch, before, after):
  monkeypatch.setattr(jax.lib, '__version__', '0.10.2')
  if before is None:
    monkeypatch.delenv('XLA_FLAGS', raising=False)
  else:
    monkeypatch.setenv('XLA_FLAGS', before)
  devices.configure()
  assert devices.os.environ['XLA_FLAGS'] == after


def test_flag_is_not_given_to_a_version_that_may_not_know_it(monkeypatch):
  monkeypatch.setattr(jax.lib, '__version__', '0.11.0')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  devices.configure()
  assert 'XLA_FLAGS' not in devices.os.environ


def test_batch_must_be_divisible_by_the_devices(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  with pytest.raises(UserError, match='batch_size=100 cannot be split evenly over 3 devices'):
    devices.data_mesh(100)
