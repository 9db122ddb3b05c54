"""Results that are kept part by part."""

import contextlib
from pathlib import Path

import pytest

from experiments.runtime.errors import UserError
from experiments.runtime.partial_results import PartialResults


def test_parts_are_found_again(tmp_path):
  for key, expected in (({'seed': 1}, {}), ({'seed': 1}, {0: [0.5]}), ({'seed': 2}, {})):
    with contextlib.closing(PartialResults(tmp_path / 'parts', key)) as parts:
      assert parts.done == expected
      parts.add(0, [0.5])


def test_a_full_disk_is_named(tmp_path):
  full = Path('/dev/full')
  if not full.exists():
    pytest.skip('needs /dev/full, which Linux has')
  path = tmp_path / 'parts'
  with (
    pytest.raises(UserError, match=f'cannot write {path} .No space left on device'),
    contextlib.closing(PartialResults(path, {})) as parts,
  ):
    parts._file.close()
    parts._file = full.open('a')  # not as its path, as reading it never ends
    parts.add(0, [0.5])
