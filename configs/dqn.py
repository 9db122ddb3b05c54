"""Deep Q-learning on Atari games (Salimans & Kingma 2016, §5.4): weight-normalised or not.

  python -m experiments.dqn --config configs/dqn.py:GAME-PARAM[,PROTOCOL] [--config.KEY=VALUE ...]

GAME is any game of the Arcade Learning Environment in snake_case; the paper's are `breakout`,
`enduro`, `seaquest` and `space_invaders`. PARAM is `plain` or `wn`. PROTOCOL is

  paper   (default) 50 million agent steps, 200 million frames, in the set-up of Mnih et al. (2015).
          Highest score in Table 2, plain → wn: Breakout 410 → 403, Enduro 1,250 → 1,448, Seaquest
          7,188 → 7,375, Space Invaders 1,779 → 2,179.
  scaled  300,000 agent steps, 1.2 million frames, with a tenth of the replay memory.
  tiny    seconds, for tests.

An agent step is one action, repeated for four frames; all steps below are agent steps, those of all
environments together. Values are those of Mnih et al. (2015) unless a comment says otherwise.
"""

import re

from ml_collections import config_dict

from configs import spec as spec_lib

GAMES = ('breakout', 'enduro', 'seaquest', 'space_invaders')  # Table 2
PARAMS = ('plain', 'wn')
PROTOCOLS = ('paper', 'scaled', 'tiny')
RATES = (0.00005, 0.0001, 0.0002, 0.0005)  # ours: the paper does not say what it chose from

SWEEPS = {
  'table2': [
    (f'{game}-{param}', {'seed': seed}) for seed in (0, 1, 2) for game in GAMES for param in PARAMS
  ],
  'scaled': [
    (f'{game}-{param},scaled', {'seed': seed})
    for seed in (0, 1, 2)
    for game in ('space_invaders', 'breakout')
    for param in PARAMS
  ],
  'scaled_2m': [  # 2 million frames, and 30 episodes in each evaluation
    (f'space_invaders-{param},scaled', {'epochs': 10, 'eval_episodes': 30, 'seed': seed})
    for seed in (0, 1)
    for param in PARAMS
  ],
  'scaled_rates': [
    (f'space_invaders-{param},scaled', {'learning_rate': rate, 'seed': 0})
    for rate in RATES
    for param in PARAMS
  ],
  'tiny': [(f'breakout-{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'space_invaders-wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'GAME-PARAM' or that and ',PROTOCOL'.

  Raises:
    ValueError: unknown parameterisation or protocol, or no game. Whether there is such a game is
      known to the experiment.
  """
  variant, *rest = spec.split(',')
  if len(rest) > 1 or not re.fullmatch(r'\w+-\w+', variant):
    raise ValueError(f'{spec!r}: write GAME-PARAM or GAME-PARAM,PROTOCOL.')
  game, param = variant.split('-')
  spec_lib.choose('parameterisation', param, PARAMS)
  protocol = spec_lib.choose('protocol', rest[0], PROTOCOLS) if rest else PROTOCOLS[0]
  config = config_dict.ConfigDict()
  config.experiment = 'dqn'
  config.variant = variant
  config.protocol = protocol
  config.seed = 0

  # Environments.
  config.game = game
  config.num_envs = 8  # ours: games played side by side; theirs: 1
  config.repeat_action_probability = 0.0  # sticky actions: 0.25 in Machado et al. (2018)
  config.max_frames = 108_000  # of a training episode: 30 minutes; ours

  # Network.
  config.param = param
  config.features = (32, 64, 64)  # of the three convolutions
  config.hidden = 512

  # Arithmetic; ours.
  config.dtype = 'float32'  # or 'bfloat16', of the products in hidden layers; all else is float32

  # Replay memory.
  config.replay_capacity = 1_000_000  # agent steps, each with one frame of 84×84
  config.learning_starts = 50_000  # agent steps before the first update
  config.batch_size = 32

  # Learning.
  config.discount = 0.99
  config.update_period = 4  # agent steps for each update
  config.target_period = 10_000  # agent steps between copies of the target network
  config.epsilon_start = 1.0
  config.epsilon_end = 0.1
  config.epsilon_delay = 50_000  # agent steps before it falls: those without updates
  config.epsilon_steps = 1_000_000  # agent steps from the one to the other, in a straight line

  # Optimisation: Adamax in the paper, which does not give its values.
  config.optimizer = 'adamax'  # or 'rmsprop', with learning_rate=0.00025: Mnih et al. (2015)
  config.learning_rate = 0.0001  # ours, for both parameterisations
  config.b1 = 0.9  # Adamax: the authors' generative models
  config.b2 = 0.999  # as b1
  config.eps = 1e-8  # as b1
  config.rmsprop_decay = 0.95
  config.rmsprop_eps = 0.01  # inside the root, for gradients summed over the minibatch

  # Length and evaluation.
  config.epochs = 200
  config.steps_per_epoch = 250_000  # agent steps before each evaluation
  config.eval_epsilon = 0.05
  config.eval_episodes = 30  # of each evaluation; ours: theirs has 125,000 agent steps
  config.final_eval_episodes = 30  # of the last one, as in their final test
  config.eval_envs = 10  # ours: games played side by side, each an equal share of the episodes
  config.eval_max_frames = 18_000  # of an episode: 5 minutes

  # The run; all ours.
  config.log_every = 5_000  # agent steps per row of training metrics
  config.checkpoint_every = 250_000  # agent steps; also after each epoch
  config.keep_checkpoints = 2  # latest ones; the best is kept as well

  if protocol == 'scaled':  # all ours
    config.epochs = 6
    config.steps_per_epoch = 50_000
    config.replay_capacity = 100_000
    config.learning_starts = 10_000
    # Each copy lets values reach one step further back; a discount of 0.99 looks 100 steps ahead.
    config.target_period = 400
    config.epsilon_delay = 0
    config.epsilon_steps = 30_000  # the first tenth
    config.learning_rate = 0.0005
    config.eval_episodes = 10
    config.log_every = 1_000
    config.checkpoint_every = 50_000
  elif protocol == 'tiny':
    config.num_envs = 4
    config.features = (2, 3, 4)
    config.hidden = 8
    config.replay_capacity = 400
    config.learning_starts = 80
    config.batch_size = 4
    config.target_period = 40
    config.epsilon_delay = 80
    config.epsilon_steps = 400
    config.epochs = 2
    config.steps_per_epoch = 400
    config.eval_episodes = 4
    config.final_eval_episodes = 4
    config.eval_envs = 2
    config.eval_max_frames = 600
    config.log_every = 80
    config.checkpoint_every = 200
  return config
