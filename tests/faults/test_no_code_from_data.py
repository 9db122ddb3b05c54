"""Nothing that a data or run folder holds is ever run: no pickle, no eval, no shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
  path
  for folder in ('wn', 'configs', 'experiments', 'scripts')
  for path in (ROOT / folder).rglob('*.py')
)

MODULES = {
  'submitit',
  'pickle',
  'cPickle',
  'dill',
  'cloudpickle',
  'joblib',
  'marshal',
  'shelve',
  'runpy',
  'code',
}
CALLS = {
  'config_flags.DEFINE_config_file',
  'eval',
  'exec',
  'compile',
  '__import__',
  'exec_module',
  'os.system',
  'os.popen',
}
LOADERS = {'yaml.load', 'yaml.unsafe_load', 'torch.load', 'np.load', 'numpy.load', 'pd.read_pickle'}

# What is allowed, and why it takes nothing from a data or run folder.
ALLOWED = {
  # The config file of a run or sweep, which the user names on the command line.
  'experiments/training/cli.py': 'calls DEFINE_config_file',
  'scripts/sweep/trials.py': 'calls exec_module',
  # submitit hands a job to the process that runs it, here or on a node of the cluster, as a pickle
  # in the directory of the sweep. It is written by the sweep that starts the job and read by that
  # job only: no result of submitit's is ever read, and a trial's directory holds no pickle.
  'scripts/sweep/job.py': 'imports submitit',
  'scripts/sweep/local.py': 'imports submitit',
  'scripts/sweep/slurm.py': 'imports submitit',
}


def name_of(node):
  """'np.load' of the expression `np.load`."""
  if isinstance(node, ast.Attribute):
    return f'{name_of(node.value)}.{node.attr}'
  return node.id if isinstance(node, ast.Name) else ''


def findings(source):
  """What in the source could run what it reads."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (f'imports {a.name}' for a in node.names if a.name.split('.')[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] in MODULES:
      yield f'imports {node.module}'
    elif isinstance(node, ast.Call):
      name = name_of(node.func)
      keywords = {keyword.arg: keyword.value for keyword in node.keywords}
      constants = {k: v.value for k, v in keywords.items() if isinstance(v, ast.Constant)}
      short = name.split('.')[-1]
      if name in CALLS or (short in CALLS and short.startswith('exec_')):
        yield f'calls {short}'
      if name in LOADERS and constants.get('allow_pickle') is not False:
        yield f'calls {name} without allow_pickle=False'
      if 'allow_pickle' in keywords and constants.get('allow_pickle') is not False:
        yield f'calls {name} with allow_pickle'
      if 'shell' in keywords and constants.get('shell') is not False:
        yield f'calls {name} with shell'


def test_no_file_runs_what_it_reads():
  found = {
    (str(path.relative_to(ROOT)), what) for path in FILES for what in findings(path.read_text())
  }
  assert len(FILES) > 60
  assert found == set(ALLOWED.items())


@pytest.mark.parametrize(
  'source',
  [
    'import pickle',
    'from dill import loads',
    'import a, joblib.x',
    'eval(text)',
    'exec(text)',
    'spec.loader.exec_module(m)',
    'os.system(command)',
    'np.load(file)',
    'np.load(file, allow_pickle=True)',
    'np.load(file, allow_pickle=flag)',
    'yaml.load(file)',
    'torch.load(path)',
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
    'np.load(f, allow_pickle=False)',
    'json.load(f)',
    'run(shell=False)',
  ],
)
def test_the_search_leaves_alone(source):
  assert not list(findings(source))
