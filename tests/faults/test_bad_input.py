"""Wrong commands: flags, config values, variants, sizes. One line, exit code 2, nothing written.

Wrong folders are in test_bad_data.py and test_bad_runs.py.
"""

import sys

import psutil
import pytest

# What a command begins with → how it may go on, and what the line then says.
TABLE = {
  'cifar': [
    ('', '--config is missing; for example --config configs/cifar.py:wn,scaled'),
    ('--config', 'Missing value for flag --config'),
    ('--config=', 'no configuration file'),
    ('--config=configs/cifr.py:wn', 'no configuration file configs/cifr.py'),
    ('--config=configs', 'no configuration file configs;'),
    (
      '--config=configs/cifr.py:wn --config.model.width=3',
      '--config names no file; run from the root',
    ),
    ('--config=configs/__init__.py:wn', "has no attribute 'get_config'"),
    ('--config=configs/vae.py:mnist-iaf-wn', 'configs/vae.py is a config of vae, not of cifar'),
    ('--config=configs/cifar.py:weightnorm,tiny', "unknown variant 'weightnorm'; choose one of"),
    ('--config=configs/cifar.py:', "unknown variant ''; choose one of plain"),
    ('--config=configs/cifar.py:wm', "Did you mean 'wn'?"),
    ('--config=configs/cifar.py:wn,tini', "unknown protocol 'tini'; choose one of paper, fifty"),
    ('--config=configs/cifar.py:wn,tini', "Did you mean 'tiny'?"),
    ('--config=configs/cifar.py:wn,scaled,tiny', 'too many parts; write VARIANT or VARIANT,'),
    ('--config=configs/cifar.py:wn --data_dir=/nowhere', 'no data folder /nowhere'),
    ('--config=configs/cifar.py:wn --data_dir=~nobody_of_this_name', '/~nobody_of_this_name; set'),
  ],
  'cifar --config=configs/cifar.py:wn,tiny': [
    ('--wrkdir=x', "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
    ('--workdir', 'Missing value for flag --workdir'),
    ('epochs=3', "unexpected argument 'epochs=3'; overrides are written --config.KEY=VALUE"),
    (
      '--config.optimizer.learnin_rate=1',
      'has no key \'learnin_rate\'. Did you mean "learning_rate" instead',
    ),
    ('--config.width=3', "the config has no key 'width'"),
    ('--config.model.width.x=3', 'Attempting to lookup: model.width.x'),
    ('--config.protocol=paper', '--config.protocol cannot be overridden'),
    ('--config.experiment=vae', '--config.experiment cannot be overridden'),
    (
      '--config.variant.parameterization=plain',
      '--config.variant.parameterization cannot be overridden; choose it in --config FILE:SPEC',
    ),
    ('--config.ema_epochs=-1', 'config.ema_epochs=-1.0 must not be negative'),
    ('--config.epochs=abc', '--config.epochs=abc'),
    ('--config.epochs=', '--config.epochs='),
    ('--config.epochs=2.5', '--config.epochs=2.5'),
    ('--config.epochs=0', 'config.epochs=0 must be 1 or more'),
    ('--config.epochs=-1', 'config.epochs=-1 must be 1 or more'),
    ('--config.epochs=1e3', '--config.epochs=1e3'),
    ('--config.epochs=1000000000', 'config.epochs=1000000000 takes 2**31 steps or more; lower it'),
    ('--config.data.whiten=maybe', '--config.data.whiten=maybe'),
    ('--config.model.width=0', 'config.model.width=0 must be 1 or more'),
    ('--config.run.log_every=0', 'config.run.log_every=0 must be 1 or more'),
    ('--config.run.steps_per_call=0', 'config.run.steps_per_call=0 must be 1 or more'),
    (
      '--config.run.steps_per_call=2',
      'config.run.log_every=5 must be a multiple of config.run.steps_per_call=2',
    ),
    (
      '--config.run.steps_per_call=5',
      'config.run.steps_per_call=5 must divide the 6 steps of an epoch',
    ),
    ('--config.run.keep_checkpoints=0', 'config.run.keep_checkpoints=0 must be 1 or more'),
    ('--config.optimizer.learning_rate=fast', '--config.optimizer.learning_rate=fast'),
    ('--config.optimizer.learning_rate=0', 'config.optimizer.learning_rate=0.0 must be above 0'),
    ('--config.optimizer.learning_rate=nan', 'config.optimizer.learning_rate=nan must be above 0'),
    ('--config.optimizer.learning_rate=inf', 'config.optimizer.learning_rate=inf must be'),
    (
      '--config.model.dropout_rate=1',
      'config.model.dropout_rate=1.0 must be at least 0 and below 1',
    ),
    ('--config.optimizer.b1=-0.1', 'config.optimizer.b1=-0.1 must be at least 0'),
    ('--config.model.noise_std=-1', 'config.model.noise_std=-1.0 must not be negative'),
    ('--config.seed=-1', 'config.seed=-1 must be at least 0'),
    ('--config.seed=4294967296', 'config.seed=4294967296 must be at least 0 and below 2**32'),
    ('--coordinator=localhost:1', '--num-processes is missing'),
    ('--num-processes=2 --process-id=0', '--coordinator is missing'),
    ('--config.model.dtype=float16', 'config.model.dtype=float16: choose one of float32, bfloat16'),
    (
      '--config.data.name=imagenet',
      'config.data.name=imagenet: choose one of cifar10, mnist, digits',
    ),
    ('--config.batch_size=301', 'config.batch_size=301 is more than the 300 training images'),
    ('--config.init.examples=301', 'config.init.examples=301 is more than the 300'),
    ('--config.data.train_examples=2000', 'digits has 1297 training images'),
    ('--config.data.upscale=1', 'images of digits are then 8 pixels wide'),
  ],
  'cifar --config=configs/cifar.py:bn,tiny': [
    ('--config.batch_size=1', 'batch normalization needs 2 or more'),
  ],
  'vae': [
    ('--config=configs/vae.py:mnist-iaf', "unknown variant 'mnist-iaf'; choose one of"),
    ('--config=configs/vae.py:mnist-iaf-nw', "Did you mean 'mnist-iaf-wn'?"),
    ('--config=configs/vae.py:digits-iaf-wn,digits', "unknown protocol 'digits'"),
    ('--config=configs/dqn.py:pong-wn', 'configs/dqn.py is a config of dqn, not of vae'),
    (
      '--config=configs/vae.py:cifar10-iaf-wn,tiny --config.model.depths=()',
      'config.model.depths=()',
    ),
    (
      '--config=configs/vae.py:cifar10-iaf-wn,tiny --config.model.z=0',
      'config.model.z=0 must be 1 or',
    ),
    (
      '--config=configs/vae.py:cifar10-iaf-wn,tiny --config.model.edge_bins=x',
      'choose one of floor, tails',
    ),
    (
      '--config=configs/vae.py:cifar10-iaf-wn,tiny --config.model.maps=(1,2,3)',
      "has no key 'maps'",
    ),
  ],
  'vae --config=configs/vae.py:digits-iaf-wn,tiny': [
    ('--config.model.flow_stps=1', 'Did you mean "flow_steps"'),
    (
      '--config.layers.dtype=float16',
      'config.layers.dtype=float16: choose one of float32, bfloat16',
    ),
    ('--config.model.latents=0', 'config.model.latents=0 must be 1 or more'),
    ('--config.model.flow_steps=0', 'config.model.flow_steps=0 must be 1 or more'),
    ('--config.model.flow_depth=0', 'config.model.flow_depth=0 must be 1 or more'),
    ('--config.model.flow_width=3', 'flow_width=3 must be config.model.latents=4 or more'),
    ('--config.model.maps=(2,3)', 'config.model.maps=(2, 3) must be three numbers'),
    ('--config.model.maps=(2,0,3)', 'config.model.maps=(2, 0, 3) must be three numbers, 1 or more'),
    ('--config.model.maps=(2,x,3)', 'config.model.maps'),
    ('--config.model.maps=5', 'config.model.maps'),
    ('--config.model.maps=(2.5,3,4)', 'config.model.maps'),
    ('--config.variant.parameterization=plain', 'choose it in --config FILE:SPEC'),
    ('--config.variant.dataset=mnist', 'choose it in --config FILE:SPEC'),
    ('--config.data.binarize=never', 'config.data.binarize=never: choose one of anew, once'),
    ('--config.layers.log_scale=-1', 'config.layers.log_scale=-1.0 must not be negative'),
    ('--config.free_bits=-1', 'config.free_bits=-1.0 must not be negative'),
    ('--config.ema_epochs=-1', 'config.ema_epochs=-1.0 must not be negative'),
    ('--config.optimizer.learning_rate=-1', 'config.optimizer.learning_rate=-1.0 must be above 0'),
    ('--config.batch_size=400', 'config.batch_size=400 is more than the 300 training images'),
  ],
  'draw': [
    ('--config=configs/draw.py:wn,noatention', "Did you mean 'noattention'?"),
    ('--config=configs/draw.py:wn,tiny,noattention', "unknown option 'tiny'; choose one of noat"),
    ('--config=configs/draw.py:nw', "unknown variant 'nw'; choose one of plain, wn"),
    ('--config=configs/draw.py:wn-noattention', "unknown variant 'wn-noattention'"),
    ('--config=configs/draw.py:wn,noatention,tiny', "unknown option 'noatention'"),
    ('--config=configs/draw.py:wn,noattention,scald', "Did you mean 'scaled'?"),
    ('--config=configs/draw.py:wn,noattention,tiny,tiny', 'write VARIANT[,OPTION][,PROTOCOL]'),
  ],
  'draw --config=configs/draw.py:wn,tiny': [
    ('--config.model.glimpses=0', 'config.model.glimpses=0 must be 1 or more'),
    ('--config.model.dtype=float16', 'config.model.dtype=float16: choose one of float32, bfloat16'),
    (
      '--config.model.read_window=9',
      'config.model.read_window=9 is larger than the 8×8 images of digits',
    ),
    ('--config.model.write_window=1', 'config.model.write_window=1 must be 2 or more'),
    (
      '--config.model.write_window=9',
      'config.model.write_window=9 is larger than the 8×8 images of digits',
    ),
    ('--config.data.name=cifar10', 'config.data.name=cifar10: choose one of mnist, digits'),
    ('--config.optimizer.clip_norm=0', 'config.optimizer.clip_norm=0.0 must be above 0'),
    ('--config.batch_size=400', 'config.batch_size=400 is more than the 300 training images'),
    ('--config.variant.option=noattention', 'choose it in --config FILE:SPEC'),
  ],
  'dqn': [
    ('--config=configs/dqn.py:breakout', "'breakout': write GAME-PARAM or GAME-PARAM,PROTOCOL"),
    ('--config=configs/dqn.py:breakout-wn,tiny,scaled', 'write GAME-PARAM or GAME-PARAM,PROTOCOL'),
    ("'--config=configs/dqn.py:Space Invaders-wn'", 'write GAME-PARAM or GAME-PARAM,PROTOCOL'),
    ('--config=configs/dqn.py:breakout-nw', "Did you mean 'wn'?"),
    ('--config=configs/dqn.py:breakout-wn,scaledd', "Did you mean 'scaled'?"),
    ('--config=configs/dqn.py:brekout-wn', "unknown game 'brekout'; did you mean breakout?"),
    ('--config=configs/dqn.py:xyzzy-wn', "unknown game 'xyzzy'; names are in snake_case"),
    ('--config=configs/dqn.py:combat-wn', "the game 'combat' is for two players"),
    ('--config=configs/dqn.py:../x-wn', 'write GAME-PARAM'),
    ('--config=configs/cifar.py:wn', 'configs/cifar.py is a config of cifar, not of dqn'),
  ],
  'dqn --config=configs/dqn.py:breakout-wn,tiny': [
    (
      '--coordinator=localhost:1 --num-processes=2 --process-id=0',
      'dqn runs in one process on one device; start a single process',
    ),
    ('--config.game=pong', "has no key 'game'"),
    ('--config.env.num_env=8', 'Did you mean "num_envs" instead'),
    ('--config.variant.game=pong', '--config.variant.game cannot be overridden'),
    ('--config.model.dtype=float16', 'config.model.dtype=float16: choose one of float32, bfloat16'),
    ('--config.model.features=(4,4)', 'must be three numbers, 1 or more each'),
    ("--config.model.features=('a','b','c')", 'config.model.features'),
    ('--config.model.init_std=0', 'config.model.init_std=0.0 must be above 0'),
    ('--config.init.examples=0', 'config.init.examples=0 must be 1 or more'),
    ('--config.init.scale=0', 'config.init.scale=0.0 must be above 0'),
    ('--config.optimizer.name=adam', 'config.optimizer.name=adam: choose one of adamax, rmsprop'),
    ('--config.optimizer.b2=1', 'config.optimizer.b2=1.0 must be at least 0 and below 1'),
    ('--config.optimizer.learning_rate=0', 'config.optimizer.learning_rate=0.0 must be above 0'),
    (
      '--config.env.num_envs=6',
      'config.env.num_envs=6 must be a multiple or a divisor of config.learning.update_period=4',
    ),
    ('--config.env.max_frames=4', 'config.env.max_frames=4 must be above 4'),
    ('--config.env.max_frames=-1', 'config.env.max_frames=-1 must be 0, for no limit, or below 2'),
    ('--config.learning.discount=1.5', 'config.learning.discount=1.5 must be between 0 and 1'),
    (
      '--config.learning.update_period=2 --config.learning.target_period=11',
      'config.learning.target_period=11 must be a multiple of 2, the updates after each step',
    ),
    ('--config.exploration.delay=-1', 'config.exploration.delay=-1 must not be negative'),
    ('--config.exploration.end=2', 'config.exploration.end=2.0 must be between 0 and 1'),
    ('--config.evaluation.steps=5', 'must be a multiple of config.evaluation.num_envs=2'),
    ('--config.evaluation.epsilon=0 --config.evaluation.max_frames=0', 'may never end'),
    ('--config.evaluation.max_frames=2147483648', 'must be 0, for no limit, or below 2**31'),
    ('--config.run.log_every=30', 'config.run.log_every=30 must be a multiple of config.env.num'),
    ('--config.replay.learning_starts=4', 'config.replay.learning_starts=4 must be 8 or more'),
    ('--config.replay.capacity=28', 'config.replay.capacity=28 must be 32 or more'),
    ('--config.replay.capacity=4000000000', 'config.replay.capacity=4000000000 needs 26'),
    ('--config.epochs=0', 'config.epochs=0 must be 1 or more'),
    ('--config.epochs=6000000', 'config.epochs=6000000 takes 2**31 agent steps or more; lower'),
    ('--config.seed=2147483648', 'config.seed=2147483648 must be at least 0 and below 2**31'),
  ],
  'likelihood': [
    ('', 'the following arguments are required: --workdir'),
    ('--workdir=run --samples=0', '--samples 0: give 1 or more'),
    ('--workdir=run --batch=-5', '--batch -5: give 1 or more'),
    ('--workdir=run --samples=many', "argument --samples: invalid int value: 'many'"),
    ('--workdir=run --sample=3', 'unrecognized arguments: --sample=3'),
    ('--workdir=run', '/run.'),
  ],
  'score': [
    ('', 'the following arguments are required: --workdir'),
    ('--workdir=run --episodes=0', '--episodes 0: give 1 or more'),
    ('--workdir=run --episodes=all', "argument --episodes: invalid int value: 'all'"),
    ('--workdir=run --epsilon=1.5', '--epsilon 1.5: give a value between 0 and 1'),
    ('--workdir=run --epsilon=nan', '--epsilon nan: give a value between 0 and 1'),
    ('--workdir=run --episode=3', 'unrecognized arguments: --episode=3'),
    ('--workdir=run', '/run.'),
  ],
  'download': [
    ('', 'the following arguments are required: name'),
    ('cifar', "invalid choice: 'cifar' (choose from"),
    ('mnist --data-dir=x', 'unrecognized arguments: --data-dir=x'),
    ('mnist --archive', 'argument --archive: expected at least one argument'),
    ('mnist --archive=nowhere.gz', 'there is no file '),
    ('mnist --archive=configs --data_dir=x', 'train-images-idx3-ubyte.gz is not among the given'),
    ('cifar10 --archive=configs/cifar.py --data_dir=x', 'is damaged: Not a gzipped file'),
    ('cifar10 --data_dir=/dev/null', '/dev/null is not a directory'),
  ],
  'quickstart': [
    ('--seeds=0', '--seeds 0: give 1 or more'),
    ('--seeds=three', "argument --seeds: invalid int value: 'three'"),
    ('--protocol=digit', "argument --protocol: invalid choice: 'digit'"),
    ('--seed=1', 'unrecognized arguments: --seed=1'),
    ('runs', 'unrecognized arguments: runs'),
  ],
  'sweep': [
    ('', 'the following arguments are required: CONFIG.py:SWEEP'),
    ('nowhere.py:x', "no configuration file 'nowhere.py'; write CONFIG.py:SWEEP"),
    ('configs:x', "no configuration file 'configs'"),
    ('configs/cifar.py', "unknown sweep ''; choose one of figure2"),
    ('configs/cifar.py:figrue2', "unknown sweep 'figrue2'"),
    ('configs/cifar.py:figrue2', "Did you mean 'figure2'?"),
  ],
  'sweep configs/cifar.py:tiny': [
    ('--job=2', 'unrecognized arguments: --job=2'),
    ('--jobs=0', '--jobs 0: it must be at least 1'),
    ('--jobs=two', "argument --jobs: invalid int value: 'two'"),
    ('--gpus=-1', '--gpus -1: it must be at least 0'),
    ('--time=1', '--time 1: it must be at least 5'),
    ('--cpus=0', '--cpus 0: it must be at least 1'),
    ('--array-size=0', '--array-size 0: it must be at least 1'),
    ('--memory=nan', '--memory nan: it must be above 0'),
    ('--memory=-1', '--memory -1.0: it must be above 0'),
    ('--executor=cloud', "argument --executor: invalid choice: 'cloud'"),
    ('--executor=slurm', 'there is no Slurm on this machine'),
    ('--filter=variant', '--filter variant: write KEY=VALUE or KEY=VALUE,VALUE'),
    ('--filter=varaint=wn', "the config has no key 'varaint'"),
    ('--filter=variant=wn,bn', 'no trial has variant=bn; it is one of plain, wn'),
    ('--filter=seed=', 'no trial has seed=; it is one of 0, 1'),
    ('--filter=seed=0 --filter=seed=1', 'leaves no trial'),
  ],
  'report': [
    ('', 'the following arguments are required: runs, --out; see python -m scripts.report --help'),
    ('.', 'the following arguments are required: --out'),
    ('nowhere --out=out', 'there is no directory nowhere'),
    ('. --out=out', '. holds no runs'),
    ('. --output=out', 'the following arguments are required: --out'),
  ],
  'benchmark': [
    ('', 'the following arguments are required: benchmark'),
    ('speed', "argument benchmark: invalid choice: 'speed'"),
    ('cifar --dtype=float16', "argument --dtype: invalid choice: 'float16'"),
    ('cifar --framework=keras', "argument --framework: invalid choice: 'keras'"),
    ('cifar --rounds=0', '--rounds 0: give 1 or more'),
    ('scaling --width=-3', '--width -3: give 1 or more'),
    ('scaling --batch=x', "argument --batch: invalid int value: 'x'"),
    ('epoch --json=table.txt', '--json table.txt: give a name that ends in .json'),
    ('epoch --rounds=1 --data_dir=/nowhere', 'no data folder /nowhere'),
    ('startup --colour=red', 'unrecognized arguments: --colour=red'),
    ('dqn --game=pong', 'unrecognized arguments: --game=pong'),
  ],
}
ROWS = [
  pytest.param(f'{start} {rest}', message, id=f'{start} {rest}')
  for start, rows in TABLE.items()
  for rest, message in rows
]


@pytest.mark.parametrize('command, message', ROWS)
def test_a_wrong_command_is_refused(command, message, refused, tmp_path, monkeypatch):
  if 'slurm' in command:  # which may be there
    monkeypatch.setenv('PATH', str(tmp_path))
  refused(command, message)


@pytest.mark.parametrize('start', ['cifar', 'vae', 'draw', 'dqn', 'download', 'sweep', 'benchmark'])
def test_a_process_of_its_own_says_the_same(start, refused):
  """Which shows that the rows above are what a user sees."""
  rest, message = TABLE[start][1]
  refused(f'{start} {rest}', message, apart=True)


@pytest.mark.parametrize('platform', ['cuda', 'gpuu'])
def test_a_device_that_is_not_there(platform, refused, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', platform)
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
  message = f'JAX finds no device of JAX_PLATFORMS={platform}. Does nvidia-smi show a GPU'
  refused('dqn --config=configs/dqn.py:breakout-wn,tiny', message, apart=True)


def test_more_replay_than_memory_says_how_much_there_is(refused, monkeypatch):
  memory = type(psutil.virtual_memory())
  monkeypatch.setattr(psutil, 'virtual_memory', lambda: memory(*[2**31] * len(memory._fields)))
  refused(
    'dqn --config=configs/dqn.py:enduro-plain',
    'config.replay.capacity=1000000 needs 8.2 GiB of memory, and 2.0 GiB are available; lower it',
  )


@pytest.mark.parametrize('command', ['dqn --config=configs/dqn.py:pong-wn', 'score --workdir=run'])
@pytest.mark.parametrize('package', ['ale_py', 'gymnasium', 'rlax'])
def test_without_the_extra(package, command, refused, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  for module in [m for m in sys.modules if m.startswith(('experiments.dqn', 'ale_py.'))]:
    monkeypatch.delitem(sys.modules, module)
  refused(command, f"{package} is not installed; run: pip install -e '.[rl]'")
