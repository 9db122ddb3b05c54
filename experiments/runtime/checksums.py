"""SHA-256 checksums of the files in a folder, in the format of `sha256sum`.

orbax and tensorstore detect some damage, but not a flipped bit in the values of an array.
"""

import hashlib
from pathlib import Path

NAME = 'SHA256SUMS'


def write(folder: Path) -> None:
  """Writes the checksums of all files in and below a folder."""
  (folder / NAME).write_text(_lines(folder))


def damage(folder: Path) -> str | None:
  """Says which file of a folder does not match its checksum; None if all do."""
  try:
    lines = (folder / NAME).read_bytes().decode('ascii').splitlines()
    sums = {name: digest for digest, name in (line.split('  ', 1) for line in lines)}
    files = _files(folder)
    for name in sorted({*sums, *files}):
      if name not in files:
        return f'{name} is missing'
      if _sum(folder / name) != sums.get(name):
        return f'{name} does not match {NAME}'
  except (OSError, ValueError) as error:
    return f'{NAME}: {error}'
  return None if sums else f'{NAME} is empty'


def of_folder(folder: Path) -> str:
  """One checksum of the names and contents of all files in and below a folder."""
  return hashlib.sha256(_lines(folder).encode()).hexdigest()


def _lines(folder: Path) -> str:
  return ''.join(f'{_sum(folder / name)}  {name}\n' for name in _files(folder))


def _files(folder: Path) -> list[str]:
  """Names relative to the folder, without the file of checksums."""
  names = (str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())
  return sorted(name for name in names if name != NAME)


def _sum(path: Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
