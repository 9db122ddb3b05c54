"""What becomes of errors, and --help. The mistakes themselves are in tests/faults/test_bad_*.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.training.errors import one_line_errors

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


def test_errors_of_the_program_keep_their_traceback():
  with pytest.raises(ZeroDivisionError), one_line_errors():
    _ = 1 / 0


def test_interruption_is_one_line(capsys, monkeypatch):
  codes = []
  monkeypatch.setattr(os, '_exit', codes.append)
  with one_line_errors():
    raise KeyboardInterrupt
  assert codes == [130]
  assert capsys.readouterr().err == 'stopped by SIGINT; the same command goes on.\n'
