"""The benchmark command, in the process of the test."""

import sys

import pytest

from scripts.benchmark import __main__ as command


@pytest.fixture
def benchmark(monkeypatch):
  """Calls the command in this process."""

  def call(*arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark', *map(str, arguments)])
    monkeypatch.setattr(command.environment, 'prepare', lambda **_: None)
    monkeypatch.setattr(command.stepper, 'use', devices.append)
    command.main()

  devices = call.devices = []

  return call
