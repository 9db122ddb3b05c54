"""Finds and reads the files of a data set, in either of two layouts."""

import os
from pathlib import Path

import numpy as np

from experiments.runtime import published, tfds_folder
from experiments.runtime.errors import UserError, user_path


def folder(data_dir: Path | str | None = None) -> Path:
  """Absolute path of `data_dir`, or else of $TFDS_DATA_DIR or ~/tensorflow_datasets."""
  chosen = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return user_path(chosen)


def read(
  name: str, data_dir: Path | str | None
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
  """Reads the published archives or, without them, a folder of TensorFlow Datasets.

  Returns:
    Split → images [N, H, W, C] uint8 and labels [N] int32; and the names of the classes.

  Raises:
    UserError: the data set is missing, or a file cannot be read.
  """
  root = folder(data_dir)
  source = published.SOURCES[name]
  try:
    if published.is_there(name, root / name):
      arrays = published.read(name, root / name)
    elif version := tfds_folder.newest(root / name):
      arrays = tfds_folder.read(name, version, source.shapes)
    else:
      where = f'{name} is not in {root}' if root.is_dir() else f'no data folder {root}'
      raise UserError(
        f'{where}; set TFDS_DATA_DIR or --data_dir to the folder that holds {name}/, '
        f'or run: python -m experiments.download {name}'
      )
  except OSError as error:
    raise UserError(
      f'cannot read {error.filename or root / name} ({error.strerror or error}); fix this, or '
      f'download to another folder: python -m experiments.download {name} --data_dir DIR'
    ) from error
  return arrays, source.class_names
