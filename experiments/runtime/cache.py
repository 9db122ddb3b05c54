"""Caches arrays that take long to compute in the user's cache directory."""

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
  """Returns `compute()`, or its cached result for the same name and key (JSON values).

  Raises:
    UserError: the cached file cannot be read. It is left as it is.
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
      f'cannot write {path} ({error.strerror}); it will be computed again next time.',
      stacklevel=2,
    )
  return arrays


def _read(path: Path) -> Arrays:
  try:
    # Opened here, as NumPy does not close a file that it fails to read.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except Exception as error:  # zipfile, zlib and NumPy each have their own
    raise UserError(f'corrupt cache file {path} ({error}); delete it to recompute it.') from error


def _write(path: Path, arrays: Arrays) -> None:
  """Writes a file under a temporary name, so that an interrupted run leaves no part of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix='.tmp')
  try:
    with os.fdopen(handle, 'wb') as file:
      np.savez(file, **arrays)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise
