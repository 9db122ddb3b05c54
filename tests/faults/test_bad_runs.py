"""Wrong directories of runs. One line, exit code 2, nothing written, there or elsewhere.

What becomes of damaged checkpoints is in test_damage.py.
"""

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from configs import cifar, dqn, draw, vae
from experiments.training import data

ROWS = [
  {'step': 6 * i, 'epoch': float(i), 'seconds': 1.0, 'test/error': 0.5, 'train/error': 0.5}
  for i in (1, 2, 3)
]
DATA = {'name': 'some', 'digest': 64 * '0'}
TRAIN = 'cifar --config=configs/cifar.py:wn,tiny --workdir=run'
LIKELIHOOD = 'likelihood --workdir=vae'
SCORE = 'score --workdir=dqn'
EVALUATED = "sed -i 's/test.error/eval\\/score/' dqn/metrics.jsonl"
SWEEP = 'sweep configs/cifar.py:tiny'
TRIAL = 'runs/cifar/tiny/plain-tiny-optimizer.learning_rate=0.001-seed=0'


def old(path):
  """A command that takes the sections out of the variant of a config."""
  return f"""sed -i 's/"variant": {{[^}}]*}}/"variant": "wn"/' {path}"""


def write_run(path, config, rows=ROWS):
  (path / 'checkpoints').mkdir(parents=True)
  (path / 'lock').touch()
  (path / 'config.json').write_text(config.to_json())
  (path / 'data.json').write_text(json.dumps(data.load('digits').description))
  (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def work(tmp_path, refused):
  """A run that is not finished, three that are, and what no run may write to."""
  write_run(tmp_path / 'run', cifar.get_config('wn,tiny'))
  for name, config in (
    ('finished', cifar.get_config('wn,tiny')),
    ('vae', vae.get_config('digits-diag-plain,tiny')),
    ('dqn', dqn.get_config('breakout-wn,tiny')),
  ):
    write_run(tmp_path / name, config)
    summary = {'config': config.to_dict(), 'data': DATA}
    (tmp_path / name / 'summary.json').write_text(json.dumps(summary))
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'notes.txt').write_text('precious')
  return refused


# What is done, by a shell, and what the line then says; by command.
TABLE = {
  TRAIN: [
    ('rm -r run; touch run', 'run is not a directory'),
    ('rm run/*.json; touch run/thesis.tex', 'run is not empty and holds no run; choose another'),
    (
      """sed -i 's/"epochs.: 3/"epochs": 9/' run/config.json""",
      'epochs (9 there, 3 now). It cannot be changed: its learning rate falls to 0',
    ),
    ('sed -i \'0,/{/s//{"momentum": 1, /\' run/config.json', 'momentum (1 there, None now)'),
    (old('run/config.json'), 'run holds a run of an older version, whose format this one'),
    ('cp vae/config.json run', 'run holds no run of cifar; choose another --workdir'),
    ('echo \'{"name": "other"}\' > run/config.json', 'run holds no run of cifar'),
    ('echo [1] > run/config.json', 'run/config.json is damaged'),
    ('truncate -s 99 run/config.json', 'run/config.json is damaged'),
    ('truncate -s 0 run/config.json', 'run/config.json is damaged'),
    (r"printf '\xff\xfe' > run/config.json", 'run/config.json is damaged'),
    ('rm run/config.json; mkdir run/config.json', '/run/config.json; fix this'),
    ("sed -i '2s/......$//' run/metrics.jsonl", 'run/metrics.jsonl, line 2'),
    ("sed -i '2s/.*//' run/metrics.jsonl", 'run/metrics.jsonl, line 2'),
    ("sed -i '2s/step/stop/' run/metrics.jsonl", 'run/metrics.jsonl, line 2: not a row of metrics'),
    ('sed -i \'2s/12/"12"/\' run/metrics.jsonl', 'run/metrics.jsonl, line 2: not a row of metrics'),
    ('rm run/metrics.jsonl; mkdir run/metrics.jsonl', '/run/metrics.jsonl; fix this'),
    (
      'mkdir run/checkpoints/6; rm run/data.json',
      'run holds a run of an older version, which did not write down its',
    ),
    ("echo '{' > run/data.json", 'run/data.json is damaged'),
    ('echo {} > run/data.json', 'run/data.json is damaged (it has no digest)'),
    ('rm run/data.json; mkdir run/data.json', 'run/data.json is damaged'),
    (
      'echo \'{"name": "digits", "digest": "0123456789abcdef"}\' > run/data.json',
      'run holds a run on other data: digits with the digest 0123456789ab, and digits is ',
    ),
    ("echo '{' > run/summary.json", 'run/summary.json is damaged'),
    ('ln -sf ../notes.txt run/lock', 'run/lock is a link that leads out of the run; replace it'),
    ('ln -s /tmp/no/such run/config.json.tmp', 'run/config.json.tmp is a link that leads out'),
    (
      'rmdir run/checkpoints; ln -s ../elsewhere run/checkpoints',
      'run/checkpoints is a link that leads out',
    ),
    ('ln -s ../../elsewhere run/checkpoints/12', 'run/checkpoints/12 is a link that leads out'),
    ('ln -s ../run2 run/replay; mkdir run2', 'run/replay is a link that leads out'),
  ],
  'report run --out=out': [
    ('', 'no finished runs to report: run is not finished (there is no summary.json)'),
    ('cp -r run again; mv again run', 'no summary.json). (and 1 more left out)'),
  ],
  'report finished --out=out': [
    ('echo {} > finished/summary.json', 'finished/summary.json is missing or is not from a run'),
    ("""sed -i 's/"epochs.: 3/"epochs": "x"/' finished/summary.json""", 'is not from a run'),
    (old('finished/summary.json'), 'finished is a run of an older version, whose format'),
    ("""sed -i 's/"wn"/".."/' finished/summary.json""", 'is not from a run'),
    ("sed -i 's/cifar/other/' finished/summary.json", "of an unknown experiment 'other'"),
    ('truncate -s 99 finished/summary.json', 'finished/summary.json is damaged'),
    ('truncate -s 0 finished/metrics.jsonl', 'finished/metrics.jsonl has no rows'),
    ("sed -i '1s/^.//' finished/metrics.jsonl", 'finished/metrics.jsonl, line 1'),
    ("""sed -i 's/0.5/"x"/' finished/metrics.jsonl""", 'has a value that is not a number'),
    ('sed -i 2d finished/metrics.jsonl', 'lacks evaluations: there should be 3'),
    ("sed -i 's/train.error/train\\/loss/' finished/metrics.jsonl", 'lacks train/error'),
    (
      'sed -i \'s/.data.: {.name.: .some/"older": {"name": "some/\' finished/summary.json',
      'is a run of an older version, which did not record its data',
    ),
    ('sed -i \'s/.name.: .some./"name": 7/\' finished/summary.json', 'does not describe the data'),
    (
      'sed -i \'s/.variant.: {[^}]*}/"variant": "wn"/\' finished/summary.json',
      'is a run of an older version, whose format this one does not read',
    ),
    ('ln -sf ../notes.txt finished/metrics.jsonl', 'metrics.jsonl is a link that leads out'),
  ],
  'report finished --out=out --readme=README.md': [
    ('', 'there is no file README.md; --readme needs the lines <!-- out --> and <!-- /out -->'),
    ('echo text > README.md', 'README.md has no lines <!-- out --> and <!-- /out -->'),
    (r"printf '\xff\xfe' > README.md", 'README.md is not UTF-8 text'),
  ],
  'report finished --out=out --steps=steps.json': [
    ('', 'there is no file steps.json; python -m scripts.benchmark writes it'),
    ('echo [] > steps.json', 'steps.json holds no step times from python -m scripts.benchmark'),
    ('echo \'{"rows": []}\' > steps.json', 'steps.json has no step time for wn, float32, winograd'),
  ],
  'report vae --out=out': [
    (
      "sed -i 's/test.error/test\\/nll_bound/; s/3.0/2.0/; 2d' vae/metrics.jsonl; echo x >"
      ' vae/likelihood-2.json',
      'vae/likelihood-2.json is damaged',
    ),
  ],
  'report notes.txt --out=out': [('', 'there is no directory notes.txt')],
  'report elsewhere --out=out': [('', 'elsewhere holds no runs')],
  'report finished --out=notes.txt': [('', 'File exists: notes.txt')],
  LIKELIHOOD: [
    ('rm -r vae', '/vae.'),
    ('rm -r vae; cp -r run vae', 'vae is a run of cifar, not of vae'),
    ('mkdir vae/checkpoints/6; rm vae/data.json', 'vae holds a run of an older version'),
    ('rm -r vae/checkpoints', '/vae/checkpoints.'),
    ('echo {} > vae/summary.json', 'vae/summary.json is missing or is not from a run'),
    ("sed -i 's/posterior/pasterior/' vae/summary.json", "the config has no 'variant.posterior'"),
    (old('vae/summary.json'), 'vae is a run of an older version, whose format this one'),
    (
      """sed -i 's/"diag"/"diak"/' vae/summary.json""",
      'config.variant.posterior=diak: choose one of',
    ),
    (
      """sed -i 's/latents.: 4/latents": null/' vae/summary.json""",
      'config.model.latents=None must be 1 or',
    ),
  ],
  SCORE: [
    ('rm -r dqn', '/dqn.'),
    ('rm -r dqn; cp -r run dqn', 'dqn is a run of cifar, not of dqn'),
    ('', 'dqn has no evaluation yet'),
    (EVALUATED, '/dqn/checkpoints/18.'),
    (f'{EVALUATED}; rm -r dqn/checkpoints', '/dqn/checkpoints/18.'),
    (f'{EVALUATED}; mkdir dqn/checkpoints/18', '/dqn/checkpoints/18 is damaged'),
    ('echo {} > dqn/summary.json', 'dqn/summary.json is missing or is not from a run'),
    ("sed -i 's/features/futures/' dqn/summary.json", "the config has no 'model.features'"),
    (old('dqn/summary.json'), 'dqn is a run of an older version, whose format this one'),
    (
      "sed -i 's/num_envs.: 2/num_envs\": 0/' dqn/summary.json",
      'config.evaluation.num_envs=0 must be 1',
    ),
    ("sed -i 's/breakout/breakfast/' dqn/summary.json", "unknown game 'breakfast'"),
    (
      """sed -i 's/"game": .[a-z]*"/"game": 3/' dqn/summary.json""",
      'dqn/summary.json is missing or is not from a run',
    ),
    ("sed -i 's/game/name/' dqn/summary.json", "the config has no 'variant.game'"),
  ],
  'report dqn --out=out': [
    (
      f'{EVALUATED}; sed -i 3d dqn/metrics.jsonl; echo x > dqn/score-5.json',
      'dqn/score-5.json is damaged',
    ),
  ],
  'quickstart --protocol=tiny --seeds=1 --out=out': [
    ('touch out', 'Not a directory: out/plain/seed0'),
    (
      'mkdir -p out/wn_mean_bn; cp -r run out/wn_mean_bn/seed0',
      'variant.parameterization (wn there, wn_mean_bn now)',
    ),
    ('mkdir -p out/wn/seed0; touch out/wn/seed0/x', 'out/wn/seed0 is not empty and holds no run'),
  ],
  SWEEP: [
    ('touch runs', 'Not a directory: runs/cifar/tiny'),
    (f'mkdir -p runs/cifar/tiny; touch {TRIAL}', f'{TRIAL} is not a directory'),
    (f'mkdir -p runs/cifar/tiny; cp -r run {TRIAL}', f'{TRIAL} holds a run with another config: '),
    (f'mkdir -p {TRIAL}; echo [1] > {TRIAL}/config.json', 'config.json is damaged'),
    (f'mkdir -p {TRIAL}', 'has 1 of these 8 trials already, 0 of them finished; add --resume'),
  ],
  'benchmark cifar --json=notes.txt/x.json': [('', 'File exists: notes.txt')],
  # Own config files.
  'cifar --config=own.py:x': [
    ('echo import nothing > own.py', "No module named 'nothing'"),
    ("echo 'def get_config(' > own.py", "'(' was never closed (own.py, line 1)"),
    ('touch own.py', "has no attribute 'get_config'"),
  ],
  'cifar --config=own.py:wn,tiny': [
    ("sed '/model.width =/d' configs/cifar.py > own.py", "the config has no 'model.width'"),
    ("sed '/config.seed =/d' configs/cifar.py > own.py", 'own.py: the config lacks seed'),
    ("sed '/data.whiten =/d' configs/cifar.py > own.py", "the config has no 'data.whiten'"),
    (
      "sed 's/bn_eps = .*/bn_eps = None/' configs/cifar.py > own.py",
      'config.model.bn_eps=None must be',
    ),
    ("sed 's/data.whiten = .*/data.whiten = 2/' configs/cifar.py > own.py", 'True or False'),
    (
      "sed 's/optimizer.b2 =/optimizer.beta2 = &/' configs/cifar.py > own.py",
      'own.py: nothing reads optimizer.beta2; configs/cifar.py has the keys that exist',
    ),
    (
      'sed "s/config.seed = 0/&; config.variant.option = \'big\'; config.fre_bits = 1/" '
      'configs/cifar.py > own.py',
      'own.py: nothing reads fre_bits, variant.option;',
    ),
    (
      'sed "s/config.protocol = .*/config.protocol = \'my own\'/" configs/cifar.py > own.py',
      "own.py: protocol='my own' must be a name of letters",
    ),
  ],
  'sweep own.py:tiny': [
    (
      "sed 's/optimizer.b2 =/optimizer.beta2 = &/' configs/cifar.py > own.py",
      'nothing reads optimizer.beta2; configs/cifar.py has the keys that exist',
    ),
    (
      "sed '/config.protocol =/d' configs/cifar.py > own.py",
      'own.py:tiny, trial 1: the config lacks protocol',
    ),
    ('echo import nothing > own.py', 'cannot import own.py: ModuleNotFoundError: '),
    ('echo \'SWEEPS = dict(tiny=[(0, {"seed": 0})])\' > own.py', "has no attribute 'get_config'"),
    ('touch own.py', "own.py: unknown sweep 'tiny'; choose one of"),
  ],
}


@pytest.mark.parametrize(
  'command, damage, message', [(command, *row) for command, rows in TABLE.items() for row in rows]
)
def test_what_is_there_is_refused(command, damage, message, work):
  subprocess.run(['bash', '-c', damage], check=True)
  work(command, message)


@pytest.mark.parametrize(
  'workdir, message',
  [
    ('/dev/null/run', 'Not a directory: /dev/null/run'),
    ('/proc/run', 'No such file or directory: /proc/run'),
    ('x' * 300, 'File name too long'),
  ],
)
def test_a_directory_that_cannot_be_made(workdir, message, refused):
  refused(f'cifar --config=configs/cifar.py:wn,tiny --workdir={workdir}', message)


@pytest.mark.parametrize(
  'lock, command, message',
  [
    ('run/lock', TRAIN, '/run; wait for it, or choose another'),
    (
      'runs/cifar/tiny/lock',
      SWEEP,
      'another process is running the sweep in runs/cifar/tiny; wait',
    ),
  ],
)
def test_a_lock_that_is_held(lock, command, message, work):
  Path(lock).parent.mkdir(parents=True, exist_ok=True)
  with open(lock, 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    work(command, message)


@pytest.mark.parametrize(
  'damage, message',
  [
    ('', 'cannot read the checkpoint'),  # it is of another network
    ('rm -r run/checkpoints; touch run/checkpoints', 'File exists: '),
    (
      'find run/checkpoints -type f -exec truncate -s 0 {} +',
      'run/checkpoints are damaged (the la',
    ),
  ],
)
def test_checkpoints(damage, message, whole, refused):
  run = Path('run')
  write_run(run, draw.get_config('plain,noattention,tiny'), rows=[{**ROWS[-1], 'step': 15}])
  shutil.copytree(whole[0].workdir / 'checkpoints', run / 'checkpoints', dirs_exist_ok=True)
  subprocess.run(['bash', '-c', damage], check=True)
  refused('draw --config=configs/draw.py:plain,noattention,tiny --workdir=run', message)
