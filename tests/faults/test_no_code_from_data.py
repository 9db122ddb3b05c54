"""Nothing that a data or run folder holds is ever run, and nothing leads out of such a folder."""

import ast
import json
import sys
from pathlib import Path

import pytest
from ml_collections import config_dict

from configs import cifar
from experiments import results
from experiments.runtime import checksums
from experiments.runtime import workdir as run_lib
from experiments.runtime.errors import UserError
from experiments.training import data

ROOT = Path(__file__).parents[2]
FILES = [
  path
  for folder in ('wn', 'configs', 'experiments', 'scripts')
  for path in sorted((ROOT / folder).rglob('*.py'))
]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))

# Modules that run what they read, or that unpack archives.
MODULES = {
  *('pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve', 'submitit'),
  *('code', 'codeop', 'runpy', 'imp', 'tarfile', 'zipfile'),
}
CALLS = {
  *('eval', 'exec', 'compile', '__import__', 'importlib.import_module', 'os.system', 'os.popen'),
  *('shutil.unpack_archive', 'pandas.read_pickle', 'torch.load', 'yaml.load', 'yaml.unsafe_load'),
  *('ml_collections.config_flags.DEFINE_config_file', 'tensorflow_datasets.builder_from_directory'),
}
METHODS = {'exec_module', 'load_module', 'extractall', 'read_pickle', 'from_pickle'}

# What is allowed, and why it takes nothing from a data or run folder.
ALLOWED = {
  # The config file of a run or sweep, which the user names on the command line.
  ('experiments/runtime/command_line.py', 'ml_collections.config_flags.DEFINE_config_file'),
  ('scripts/sweep/trials.py', 'exec_module'),
  # The experiment that `python -m experiments.NAME` names.
  ('experiments/runtime/command_line.py', 'importlib.import_module'),
  # It imports the classes that a file in the folder names: after `check_features`, those of TFDS.
  ('experiments/runtime/tfds_folder.py', 'tensorflow_datasets.builder_from_directory'),
  # Files of certain names are read from an archive into memory; nothing is unpacked to the disk.
  ('experiments/runtime/published.py', 'tarfile'),
  # submitit hands a job to the process that runs it, here or on a node of the cluster, as a pickle
  # in the directory of the sweep. It is written by the sweep that starts the job and read by that
  # job only: no result of submitit's is ever read, and a trial's directory holds no pickle.
  ('scripts/sweep/job.py', 'submitit'),
  ('scripts/sweep/local.py', 'submitit'),
  ('scripts/sweep/slurm.py', 'submitit'),
}


def findings(source):
  """What in the source could run what it reads: names of modules and of what is called."""
  tree = ast.parse(source)
  full = {}  # name in this file → what it stands for
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      full |= {a.asname or a.name.split('.')[0]: a.name if a.asname else '' for a in node.names}
      yield from (a.name for a in node.names if a.name.split('.')[0] in MODULES)
    elif isinstance(node, ast.ImportFrom):
      full |= {a.asname or a.name: f'{node.module}.{a.name}' for a in node.names}
      if (node.module or '').split('.')[0] in MODULES:
        yield node.module

  def name_of(node):
    """'numpy.load' of the expression `np.load`."""
    if isinstance(node, ast.Attribute):
      return f'{name_of(node.value)}.{node.attr}'
    return (full.get(node.id) or node.id) if isinstance(node, ast.Name) else ''

  for node in ast.walk(tree):
    # Not only calls: a function may be handed on.
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
      name = name_of(node)
      if name in CALLS:
        yield name
      elif name.split('.')[-1] in METHODS:
        yield name.split('.')[-1]
    if isinstance(node, ast.Call):
      name = name_of(node.func)
      keywords = {keyword.arg: getattr(keyword.value, 'value', ...) for keyword in node.keywords}
      pickles = keywords.get('allow_pickle', name == 'numpy.load')
      if pickles is not False:
        yield f'{name} without allow_pickle=False'
      if keywords.get('shell', False) is not False:
        yield f'{name} with shell'
      if None in keywords and name.startswith(('subprocess.', 'numpy.load')):
        yield f'{name} with **'


def test_no_file_runs_what_it_reads():
  sources = {path: path.read_text() for path in FILES}
  for path in NOTEBOOKS:
    cells = json.loads(path.read_text())['cells']
    code = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    sources[path] = '\n'.join(code)
  assert len(FILES) > 60 and NOTEBOOKS
  found = {
    (str(path.relative_to(ROOT)), what)
    for path, source in sources.items()
    for what in findings(source)
  }
  assert found == ALLOWED


@pytest.mark.parametrize(
  'source',
  [
    'import pickle',
    'from dill import loads',
    'import a, joblib.x',
    'from zipfile import ZipFile as Z',
    'eval(text)',
    'exec(text)',
    'list(map(eval, texts))',
    'spec.loader.exec_module(m)',
    'import os.path\nos.system(command)',
    'from os import system as run\nrun(command)',
    'import numpy as n\nn.load(file)',
    'from numpy import load\nload(file)',
    'import numpy as np\nnp.load(file, allow_pickle=True)',
    'import numpy as np\nnp.load(file, allow_pickle=flag)',
    'reader(allow_pickle=True)',
    'import yaml\nyaml.load(file)',
    'import torch\ntorch.load(path)',
    'frame.read_pickle(path)',
    'archive.extractall(folder)',
    'subprocess.run(command, shell=True)',
  ],
)
def test_the_search_finds(source):
  assert list(findings(source))


@pytest.mark.parametrize(
  'source',
  [
    'model.eval()',
    're.compile(x)',
    'import numpy as np\nnp.load(f, allow_pickle=False)',
    'json.load(f)',
    'run(shell=False)',
  ],
)
def test_the_search_leaves_alone(source):
  assert not list(findings(source))


def test_a_data_folder_names_no_classes_of_its_own(tmp_path, cache_dir, monkeypatch):
  """TensorFlow Datasets would import them."""
  folder = tmp_path / 'data' / 'mnist' / '3.0.1'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text('{"name": "mnist", "fileFormat": "array_record"}')
  (tmp_path / 'evil_module.py').write_text('')
  monkeypatch.syspath_prepend(tmp_path)
  features = {'featuresDict': {'features': {'image': {'pythonClassName': 'evil_module.Image'}}}}
  for value in (features, {'type': 'evil_module.Image', 'content': {}}):
    (folder / 'features.json').write_text(json.dumps(value))
    with pytest.raises(UserError, match="names 'evil_module"):
      data.load('mnist', str(tmp_path / 'data'))
  assert 'evil_module' not in sys.modules


CONFIG = config_dict.FrozenConfigDict(cifar.get_config('wn,tiny'))


@pytest.mark.parametrize(
  'name', ['lock', 'metrics.jsonl', 'summary.json.tmp', 'checkpoints', 'checkpoints/5']
)
def test_links_that_lead_out_of_a_run_are_refused(name, tmp_path):
  run_lib.create_workdir(tmp_path / 'run', CONFIG, {'name': 'x', 'digest': 'y'})
  outside = tmp_path / 'outside'
  outside.mkdir()
  link = tmp_path / 'run' / name
  link.parent.mkdir(exist_ok=True)
  link.symlink_to(outside)
  for use in (
    lambda: run_lib.check_workdir(link.parent, CONFIG),
    lambda: results.read(link.parent),
  ):
    with pytest.raises(UserError, match=f'{link} is a link that leads out of the run'):
      use()
  assert not list(outside.iterdir())


def test_links_that_stay_in_a_run_and_a_run_that_is_a_link(tmp_path):
  run_lib.create_workdir(tmp_path / 'run', CONFIG, {'name': 'x', 'digest': 'y'})
  (tmp_path / 'run' / 'latest').symlink_to('config.json')
  (tmp_path / 'link').symlink_to('run')
  run_lib.check_workdir(tmp_path / 'link', CONFIG)


@pytest.mark.parametrize('name', ['../../outside', '/tmp/outside', '..', '.hidden', 'a/b', ''])
def test_names_in_a_run_that_are_paths(name, tmp_path):
  variant = {'parameterization': name}
  config = {**CONFIG.to_dict(), 'variant': variant}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match='is not from a run'):
    results.read(tmp_path)


def test_checksums_of_files_outside(tmp_path):
  (tmp_path / 'secret').write_text('abc')
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'folder' / checksums.NAME).write_text(f'{"0" * 64}  ../secret\n')
  assert checksums.damage(tmp_path / 'folder') == '../secret is missing'
