"""What becomes of errors, and --help. The mistakes themselves are in tests/faults/test_bad_*.py."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runtime.errors import one_line_errors

ROOT = Path(__file__).parents[3]


def test_help_names_the_flags_and_the_variants():
  command = [sys.executable, '-m', 'experiments.cifar', '--help']
  output = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
  assert '--workdir' in output and 'wn_mean_bn' in output


def test_full_disk_is_one_line(capsys):
  with pytest.raises(SystemExit) as exit_, one_line_errors():
    raise OSError(28, 'No space left on device', 'runs/metrics.jsonl')
  assert exit_.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: No space left on device: runs/metrics.jsonl')


@pytest.mark.parametrize(
  'allocate, size',
  [
    (lambda: jnp.zeros((10**7, 10**7)), '400000000000000 bytes'),
    (lambda: jax.jit(lambda x: x + jnp.zeros((10**7, 10**7)))(0.0), '400000000000000 bytes'),
    (lambda: np.zeros((10**8, 10**8)), '71.1 PiB'),
    (lambda: bytearray(10**17), ''),
  ],
)
def test_lack_of_memory_is_one_line(allocate, size, capsys):
  with pytest.raises(SystemExit) as exit_, one_line_errors():
    jax.block_until_ready(allocate())
  assert exit_.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  allocating = f' allocating {size}' if size else ''
  assert line.startswith(f'error: out of memory{allocating}; reduce the network or config.batch')


def test_errors_of_the_program_keep_their_traceback():
  with pytest.raises(ZeroDivisionError), one_line_errors():
    _ = 1 / 0
  with pytest.raises(RuntimeError, match='a mistake'), one_line_errors():
    raise RuntimeError('a mistake')


def test_interruption_is_one_line(capsys, monkeypatch):
  codes = []
  monkeypatch.setattr(os, '_exit', codes.append)
  with one_line_errors():
    raise KeyboardInterrupt
  assert codes == [130]
  assert capsys.readouterr().err == 'stopped by SIGINT; rerun the same command to resume.\n'
