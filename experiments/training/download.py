"""Downloads a data set: `python -m experiments.training.download cifar10`.

Through TensorFlow Datasets, without TensorFlow. Needs the internet. The files go to --data_dir, by
default $TFDS_DATA_DIR or ~/tensorflow_datasets.
"""

from pathlib import Path

from experiments.training import data
from experiments.training.errors import ArgumentParser, UserError, one_line_errors


def main() -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m experiments.training.download')
  parser.add_argument('name', choices=('cifar10', 'mnist'))
  parser.add_argument('--data_dir', default=str(data.default_data_dir()))
  with one_line_errors():
    args = parser.parse_args()
    download(args.name, args.data_dir)


def download(name: str, data_dir: str) -> None:
  """Downloads one data set and writes it in the format that can be read without TensorFlow.

  Raises:
    UserError: the download failed, for want of a network for example, or the folder holds the data
      set in another format.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(file_format='array_record')
  except Exception as error:  # requests, urllib3 and TFDS each have their own
    raise UserError(
      f'cannot download {name} ({type(error).__name__}: {str(error)[:200]}); copy a folder '
      f'{name}/VERSION prepared on another machine into {data_dir} instead.'
    ) from error
  data.check_format(Path(builder.data_dir))
  print(f'{name} is in {builder.data_dir}')


if __name__ == '__main__':
  main()
