"""Damaged checkpoints: the one before is used, with a warning that names the damaged one."""

import contextlib
import random
import shutil

import numpy as np
import pytest

from experiments.runtime import checkpoints, checksums
from experiments.runtime.errors import UserError


@pytest.fixture(scope='module')
def finished(whole):
  """A finished run with the checkpoints 10, 12 and 15."""
  return whole[0].workdir


@pytest.fixture
def damaged(finished, run):
  """A copy of the run, and the folder of its newest checkpoint."""
  shutil.copytree(finished, run.workdir)
  return run, run.workdir / 'checkpoints' / '15'


def flip(path, rng):
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def of_each_file(folder, damage):
  for path in sorted(path for path in folder.rglob('*') if path.is_file()):
    damage(path)


DAMAGES = {
  'truncated': lambda folder: of_each_file(
    folder, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  ),
  'emptied': lambda folder: of_each_file(folder, lambda path: path.write_bytes(b'')),
  'without files': lambda folder: of_each_file(folder, lambda path: path.unlink()),
  'an empty folder': lambda folder: (shutil.rmtree(folder), folder.mkdir()),
  'without checksums': lambda folder: (folder / checksums.NAME).unlink(),
  'a file': lambda folder: (shutil.rmtree(folder), folder.write_text('')),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_the_checkpoint_before_is_used(damage, damaged, capsys, is_whole):
  run, newest = damaged
  DAMAGES[damage](newest)
  state = run()
  is_whole(run, state)
  output = capsys.readouterr()
  assert 'resuming at step 12 of 15' in output.out
  (warning,) = output.err.splitlines()
  assert warning.startswith(f'warning: {newest} is damaged (')
  assert warning.endswith('); it is skipped, and kept as 15.damaged.')
  assert newest.with_name('15.damaged').exists()
  run()  # has nothing to say
  assert not capsys.readouterr().err


def test_one_flipped_bit_in_any_file(damaged, capsys):
  run, newest = damaged
  rng = random.Random(0)
  files = [path for path in newest.rglob('*') if path.is_file()]
  assert len(files) > 8
  for path in files:
    content = path.read_bytes()
    for _ in range(3):
      flip(path, rng)
      state = checkpoints.restore_latest(newest.parent, run.state())
      assert int(state.step) == 12, path
      assert f'{newest} is damaged' in capsys.readouterr().err, path
      path.write_bytes(content)


def test_a_flipped_bit_that_orbax_does_not_see(damaged):
  """Why there are checksums."""
  run, newest = damaged
  rng = random.Random(1)
  values = np.asarray(checkpoints.restore_latest(newest.parent, run.state()).params['b'][...])
  silent = 0
  folder = newest / 'default' / 'ocdbt.process_0' / 'd'
  path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
  content = path.read_bytes()
  for _ in range(20):
    flip(path, rng)
    checksums.write(newest)  # as if they were right
    with contextlib.suppress(UserError):
      state = checkpoints.restore_latest(newest.parent, run.state())
      silent += not np.array_equal(state.params['b'][...], values)
    path.write_bytes(content)
  assert silent


def test_damage_of_older_checkpoints_does_not_matter(damaged, capsys):
  run, newest = damaged
  for folder in newest.parent.iterdir():
    if folder != newest:
      DAMAGES['truncated'](folder)
  assert int(run().step) == 15
  assert capsys.readouterr().err.count('warning: ') == 2


@pytest.mark.parametrize('damage', ['truncated', 'emptied', 'without checksums', 'a file'])
def test_when_all_are_damaged_they_are_left_alone(damage, damaged):
  run, newest = damaged
  for folder in newest.parent.iterdir():
    DAMAGES[damage](folder)
  before = sorted(run.workdir.rglob('*'))
  with pytest.raises(UserError, match=r'all checkpoints in .* are damaged \(the latest: .*restore'):
    run()
  with pytest.raises(UserError, match='are damaged'):
    checkpoints.restore_latest(newest.parent, run.state())
  assert sorted(run.workdir.rglob('*')) == before


def test_a_checkpoint_that_is_asked_for_is_not_replaced_by_another(damaged):
  run, newest = damaged
  at = lambda step: checkpoints.restore_at(newest.parent, step, run.state())
  assert [int(at(step).step) for step in (10, 12, 15)] == [10, 12, 15]
  with pytest.raises(UserError, match=f'there is no checkpoint {newest.with_name("11")}'):
    at(11)
  DAMAGES['truncated'](newest)
  with pytest.raises(UserError, match=f'the checkpoint {newest} is damaged'):
    at(15)


def test_a_state_that_does_not_fit_is_no_damage(damaged):
  """As after a change of the code: nothing is renamed."""
  newest = damaged[1]
  with pytest.raises(UserError, match=f'cannot read the checkpoint {newest}'):
    checkpoints.restore_latest(newest.parent, {'other': np.zeros(3)})
  assert newest.exists()


def test_reading_a_run_says_nothing(damaged, capfd):
  run, newest = damaged
  checkpoints.restore_latest(newest.parent, run.state())
  assert capfd.readouterr() == ('', '')


def test_checksums_are_those_of_sha256sum(tmp_path):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'folder' / 'abc').write_text('abc')
  checksums.write(tmp_path)
  # FIPS 180-2, appendix B.1.
  digest = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
  assert (tmp_path / checksums.NAME).read_text() == f'{digest}  folder/abc\n'
  assert checksums.damage(tmp_path) is None
  (tmp_path / 'new').write_text('')
  assert checksums.damage(tmp_path) == 'new does not match SHA256SUMS'
