"""Downloads a data set: `python -m experiments.download cifar10`.

  python -m experiments.download {cifar10,mnist} [--data_dir DIR] [--archive FILE ...]

The published archives go to DIR/cifar10 or DIR/mnist; DIR defaults to $TFDS_DATA_DIR or
~/tensorflow_datasets. On a machine without internet access, pass archives that you have as
--archive: cifar-10-binary.tar.gz, or the four .gz files of MNIST or their folder. All archives must
have the published content.
"""

import contextlib
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import pooch
import requests
import tqdm

from experiments.runtime import data_files, published
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors, user_path

_SECONDS = 10.0  # timeout of a server


def main() -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m experiments.download')
  parser.add_argument('name', choices=tuple(published.SOURCES))
  parser.add_argument('--data_dir', help='folder of the data sets')
  parser.add_argument('--archive', nargs='+', metavar='FILE', help='files that you have')
  with one_line_errors():
    args = parser.parse_args()
    download(args.name, args.data_dir, args.archive)


def download(
  name: str, data_dir: Path | str | None = None, archives: Sequence[Path | str] | None = None
) -> None:
  """Puts the published archives of a data set into its folder, unless they are there.

  An archive gets its name once it is checked, so that an interrupted download leaves no part of it.

  Args:
    name: key of `published.SOURCES`.
    data_dir: see `data_files.folder`.
    archives: files, or folders of files, to use instead of downloading.

  Raises:
    UserError: a download failed, an archive is not as published, or the folder is not writable.
  """
  folder = data_files.folder(data_dir) / name
  with _one_line(folder):
    if wanted := _missing(name, folder):
      _check_place(folder)
      if archives:
        paths = [user_path(path) for path in archives]
        given = _recognize(name, wanted, paths)
      else:
        mirrors = _reachable(name, wanted[0])
      folder.mkdir(parents=True, exist_ok=True)
      with _alone(folder), _staging(folder) as staging:
        for archive in _missing(name, folder):  # another process may have been quicker
          if archives:
            shutil.copyfile(given[archive], staging / archive)
          else:
            _fetch(name, mirrors, staging / archive)
          _put(name, staging / archive, folder / archive)
  print(f'{name} is in {folder}')


def _check_place(folder: Path) -> None:
  """Checks, before any download, that a folder can be created or written to."""
  place = next(path for path in (folder, *folder.parents) if path.exists())
  if not place.is_dir():
    raise UserError(f'{place} is not a directory; choose another --data_dir.')
  effective = os.access in os.supports_effective_ids
  if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective):
    raise UserError(f'no permission to write to {place}; choose another --data_dir.')


def _missing(name: str, folder: Path) -> list[str]:
  """The archives that are missing from a folder, or not as published."""
  archives = published.SOURCES[name].archives
  return [
    file
    for file, archive in archives.items()
    if not (folder / file).is_file() or published.difference(folder / file, archive)
  ]


def _recognize(name: str, wanted: Sequence[str], paths: Sequence[Path]) -> Mapping[str, Path]:
  """Finds archives among files by content; in folders, only files of their names are tried."""
  archives = published.SOURCES[name].archives
  files = []
  for path in paths:
    if not path.exists():
      raise UserError(f'there is no file {path}.')
    files += [path / file for file in archives if (path / file).is_file()]
    if path.is_file():
      files.append(path)
  found, problems = {}, []
  for file in files:
    differences = {of: published.difference(file, archive) for of, archive in archives.items()}
    if matching := [of for of, difference in differences.items() if difference is None]:
      found[matching[0]] = file
    else:
      closest = differences.get(file.name) or next(iter(differences.values()))
      problems.append(f'{file} is not as published ({closest}); get it again.')
  if lacking := [file for file in wanted if file not in found]:
    raise UserError(problems[0] if problems else f'{lacking[0]} is not among the given archives.')
  return found


def _reachable(name: str, file: str) -> list[str]:
  """The mirrors whose servers respond in time, whatever their response.

  Each is asked in a thread: nothing else limits the time of a name lookup.
  """
  mirrors, answered = published.SOURCES[name].mirrors, set()

  def ask(mirror: str) -> None:
    with contextlib.suppress(requests.RequestException):
      pooch.HTTPDownloader(timeout=_SECONDS)(mirror + file, None, None, check_only=True)
      answered.add(mirror)

  deadline = time.monotonic() + _SECONDS
  threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(max(0.0, deadline - time.monotonic()))
  if not answered:
    servers = ' nor '.join(urllib.parse.urlsplit(mirror).netloc for mirror in mirrors)
    raise UserError(f'cannot reach {servers}; check the network, or {_otherwise(name)}')
  return [mirror for mirror in mirrors if mirror in answered]


def _fetch(name: str, mirrors: Sequence[str], path: Path) -> None:
  """Downloads an archive from the first mirror that has it."""
  archive = published.SOURCES[name].archives[path.name]
  pooch.get_logger().setLevel('WARNING')
  problems = []
  for mirror in mirrors:
    # pooch sets the real total.
    with tqdm.tqdm(desc=path.name, total=1, unit='B', unit_scale=True, disable=None) as progress:
      try:
        pooch.retrieve(
          mirror + path.name,
          f'sha256:{archive.sha256}',
          path.name,
          path.parent,
          downloader=pooch.HTTPDownloader(progress, chunk_size=2**18, timeout=_SECONDS),
        )
        return
      except requests.RequestException as error:
        reason = ' '.join(str(error).split())[:150]
        problems.append(f'{mirror}: {type(error).__name__}: {reason}')
      except ValueError:  # pooch found a wrong checksum
        problems.append(f'{mirror}: not the published file')
  raise UserError(
    f'cannot download {path.name} ({"; ".join(problems)}); rerun the same command, or '
    f'{_otherwise(name)}'
  )


def _put(name: str, staged: Path, path: Path) -> None:
  """Checks an archive and moves it to `path`; renames another one that is there."""
  if difference := published.difference(staged, published.SOURCES[name].archives[path.name]):
    raise UserError(f'{path.name} is not as published ({difference}); rerun the same command.')
  if path.exists():
    aside = path.with_name(f'{path.name}.replaced')
    os.replace(path, aside)
    print(f'{path} was not as published; it is kept as {aside.name}')
  os.replace(staged, path)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
  """Makes other downloads into a folder wait. The lock dies with this process."""
  lock = filelock.FileLock(folder / '.download.lock')
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    print(f'another process is downloading to {folder}; waiting for it', flush=True)
    lock.acquire()
  try:
    yield
  finally:
    lock.release()


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
  """A folder for partial downloads, emptied of what a killed process left."""
  staging = folder / '.download'
  shutil.rmtree(staging, ignore_errors=True)
  staging.mkdir()
  try:
    yield staging
  finally:
    shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
  """Turns errors of the file system into a `UserError`."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f'cannot read or write {error.filename or folder} ({error.strerror or error}); fix this and '
      'rerun the same command.'
    ) from error


def _otherwise(name: str) -> str:
  return (
    f'give archives that you have: python -m experiments.download {name} --archive FILE [FILE ...]'
  )


if __name__ == '__main__':
  main()
