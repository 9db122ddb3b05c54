"""Arrays that take long to compute, kept in the user's cache directory."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from experiments.runtime.errors import UserError

Arrays = dict[str, np.ndarray]


def cached(name: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
  """Returns `compute()`, or what it returned the last time for this name and key.

  The file is written under another name and then renamed: an interrupted run leaves no half.

  Args:
    name: start of the file's name.
    key: JSON values that decide the result.
    compute: makes the arrays.

  Raises:
    UserError: the file is there but cannot be read. It is left as it is.
  """
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
  path = platformdirs.user_cache_path('weightnorm') / f'{name}-{digest}.npz'
  if path.exists():
    return _read(path)
  arrays = compute()
  try:
    _write(path, arrays)
  except OSError as error:
    warnings.warn(
      f'cannot keep {path} ({error.strerror}); it will be computed anew next time.',
      stacklevel=2,
    )
  return arrays


def _read(path: Path) -> Arrays:
  try:
    # Opened here, as NumPy leaves a file that it cannot read open.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except Exception as error:  # zipfile, zlib and NumPy each have their own
    raise UserError(
      f'corrupt cache file {path} ({error}); delete it to have it made anew.'
    ) from error


def _write(path: Path, arrays: Arrays) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix='.tmp')
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, **arrays)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
