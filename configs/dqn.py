"""Deep Q-learning on Atari games (Salimans & Kingma 2016, §5.4): weight-normalized or not.

  python -m experiments.dqn --config configs/dqn.py:GAME-PARAM[,PROTOCOL] [--config.KEY=VALUE ...]
  python -m experiments.dqn --config configs/dqn.py:space_invaders-wn  # for example

GAME is any game of the Arcade Learning Environment in snake_case; the paper's are `breakout`,
`enduro`, `seaquest` and `space_invaders`. PARAM is `plain` or `wn`. PROTOCOL is

  paper   (default) 50 million agent steps, 200 million frames. Highest score in Figure 6, plain →
          wn: Breakout 410 → 403, Enduro 1,250 → 1,448, Seaquest 7,188 → 7,375, Space Invaders
          1,779 → 2,179.
  scaled  500,000 agent steps, 2 million frames, with a tenth of the replay memory: 90 minutes on
          an idle CPU core.
  short   the same network and 4,000 agent steps, a few minutes: a look at how it works, too short
          to learn the game.
  tiny    seconds, for tests.

An agent step is one action, repeated for four frames. All steps below are agent steps, summed over
the environments. (P) marks values of the paper, (M) those of Mnih et al. (2015), whose set-up the
paper keeps, (C) those of the code that the paper changed, github.com/spragunr/deep_q_rl; the others
are ours.
"""

import re

from ml_collections import config_dict

from configs import spec as spec_lib
from configs import variants

GAMES = variants.DQN_GAMES
PARAMS = variants.PARAMETERIZATIONS
PROTOCOLS = ('paper', 'scaled', 'short', 'tiny')

RATES = (0.0001, 0.0003, 0.001, 0.003)  # (P) the grid
RATE_OF = {'plain': 0.0001, 'wn': 0.0003}  # (P) "in general"

SWEEPS = {
  # Figure 6, and Figure 5 for Space Invaders.
  'figure6': [
    (f'{game}-{param}', {'seed': seed}) for seed in (0, 1, 2) for game in GAMES for param in PARAMS
  ],
  'scaled': [
    (f'{game}-{param},scaled', {'seed': seed})
    for seed in (0, 1, 2)
    for game in ('space_invaders', 'breakout')
    for param in PARAMS
  ],
  'scaled_rates': [
    (f'space_invaders-{param},scaled', {'optimizer.learning_rate': rate, 'seed': 0})
    for rate in RATES
    for param in PARAMS
  ],
  'tiny': [(f'breakout-{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'space_invaders-wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'GAME-PARAM[,PROTOCOL]'.

  Raises:
    ValueError: unknown parameterization or protocol, or no game. The experiment checks the game.
  """
  variant, *rest = spec.split(',')
  if len(rest) > 1 or not re.fullmatch(r'\w+-\w+', variant):
    raise ValueError(f'{spec!r}: write GAME-PARAM or GAME-PARAM,PROTOCOL.')
  game, parameterization = variant.split('-')
  spec_lib.choose('parameterization', parameterization, PARAMS)
  protocol = spec_lib.choose('protocol', rest[0], PROTOCOLS) if rest else PROTOCOLS[0]
  config = config_dict.ConfigDict()
  config.experiment = 'dqn'
  config.protocol = protocol
  config.variant = config_dict.ConfigDict({'game': game, 'parameterization': parameterization})
  config.seed = 0

  config.env = env = config_dict.ConfigDict()
  env.num_envs = 8  # ours: games played in parallel; 1 in (M)
  env.repeat_action_probability = 0.0  # (M); sticky actions: 0.25 in Machado et al. (2018)
  env.max_frames = 108_000  # per training episode, 30 minutes; 0: no limit

  config.model = model = config_dict.ConfigDict()
  model.features = (32, 64, 64)  # (M) of the three convolutions
  model.hidden = 512  # (M)
  model.init_std = 0.05  # (P) §3, of v and of plain weights
  model.dtype = 'float32'  # or 'bfloat16'; of products in hidden layers, the rest is float32

  # Data-dependent initialization of both parameterizations (P), on observations of random play.
  config.init = init = config_dict.ConfigDict()
  init.examples = 512
  init.scale = 1.0  # (P)

  config.replay = replay = config_dict.ConfigDict()
  replay.capacity = 1_000_000  # (M) agent steps, each with one frame of 84×84
  replay.learning_starts = 50_000  # (M) agent steps before the first update
  replay.batch_size = 64  # (P)

  config.learning = learning = config_dict.ConfigDict()
  learning.discount = 0.99  # (M)
  learning.update_period = 4  # (M) agent steps per update
  learning.target_period = 2_500  # (C) updates between copies to the target network

  # Probability of a random action; decays linearly from start to end.
  config.exploration = exploration = config_dict.ConfigDict()
  exploration.start = 1.0  # (M)
  exploration.end = 0.1  # (M)
  exploration.delay = 50_000  # (M) agent steps before the decay: those without updates
  exploration.steps = 1_000_000  # (M) agent steps of the decay

  config.optimizer = optimizer = config_dict.ConfigDict()
  # (P); or 'rmsprop', with learning_rate=0.00025: (M)
  optimizer.name = 'adamax'
  optimizer.learning_rate = RATE_OF[parameterization]  # (P)
  optimizer.b1 = 0.5  # (P)
  optimizer.b2 = 0.999
  optimizer.eps = 1e-8
  optimizer.rmsprop_decay = 0.95  # (M)
  optimizer.rmsprop_eps = 0.01  # (M) inside the root, for gradients summed over the minibatch

  config.epochs = 200  # (P)
  config.steps_per_epoch = 250_000  # (P) agent steps before each evaluation

  config.evaluation = evaluation = config_dict.ConfigDict()
  evaluation.steps = 125_000  # (P) agent steps; unfinished episodes are then played to the end
  evaluation.epsilon = 0.05  # (P)
  evaluation.num_envs = 10  # ours: games played in parallel, with an equal share of the steps
  evaluation.max_frames = 0  # (P) per episode; 0: no limit

  config.run = run = config_dict.ConfigDict()
  run.log_every = 5_000  # agent steps per row of training metrics
  run.checkpoint_every = 250_000  # agent steps; also after each epoch
  run.keep_checkpoints = 2  # the latest; the best is kept too

  if protocol == 'scaled':
    replay.capacity = 100_000
    replay.learning_starts = 10_000
    # Each copy propagates values one step back; a discount of 0.99 looks about 100 steps ahead.
    learning.target_period = 100
    exploration.delay = 0
    exploration.steps = 50_000  # the first tenth
    config.epochs = 10
    config.steps_per_epoch = 50_000
    evaluation.steps = 20_000
    run.log_every = 1_000
    run.checkpoint_every = 25_000
  elif protocol == 'short':
    init.examples = 128
    replay.capacity = 4_000
    replay.learning_starts = 1_000
    learning.target_period = 100
    exploration.delay = 0
    exploration.steps = 2_000
    config.epochs = 2
    config.steps_per_epoch = 2_000
    evaluation.steps = 500
    evaluation.max_frames = 4_000
    run.log_every = 200
    run.checkpoint_every = 2_000
  elif protocol == 'tiny':
    env.num_envs = 4
    model.features = (2, 3, 4)
    model.hidden = 8
    init.examples = 40
    replay.capacity = 400
    replay.learning_starts = 80
    replay.batch_size = 4
    learning.target_period = 10
    exploration.delay = 80
    exploration.steps = 400
    config.epochs = 2
    config.steps_per_epoch = 400
    evaluation.steps = 200
    evaluation.num_envs = 2
    evaluation.max_frames = 600
    run.log_every = 80
    run.checkpoint_every = 200
  return config
