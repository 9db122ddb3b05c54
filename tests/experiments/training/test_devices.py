"""The mesh, and which convolution its devices get."""

import types

import jax
import numpy as np
import pytest
from jax import lax

from experiments.runtime import winograd
from experiments.runtime.errors import UserError
from experiments.training import devices


def test_batch_must_be_divisible_by_the_devices(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  with pytest.raises(UserError, match='batch_size=100 cannot be split evenly over 3 devices'):
    devices.data_mesh(100)


@pytest.mark.parametrize(
  'platform, count, wanted, fast',
  [
    ('cpu', 1, True, True),
    ('cpu', 1, False, False),
    ('cpu', 2, True, False),
    ('gpu', 1, True, False),
    ('tpu', 8, True, False),
  ],
)
def test_only_a_single_cpu_gets_the_fast_convolution(platform, count, wanted, fast):
  device = types.SimpleNamespace(platform=platform)
  mesh = types.SimpleNamespace(size=count, devices=np.array([device] * count))
  expected = winograd.conv_general_dilated if fast else lax.conv_general_dilated
  assert devices.convolution(mesh, use_winograd=wanted) is expected
