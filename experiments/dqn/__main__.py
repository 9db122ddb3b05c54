"""Deep Q-learning on Atari games (Salimans & Kingma 2016, §5.4).

  python -m experiments.dqn --config configs/dqn.py:GAME-PARAM[,PROTOCOL] [--config.KEY=VALUE ...]

GAME: breakout, enduro, seaquest, space_invaders or any other game of the Arcade Learning
Environment. PARAM: plain, wn. PROTOCOL: paper (default), scaled, tiny. Needs `pip install .[rl]`.
"""

from experiments.training import cli

if __name__ == '__main__':
  cli.run('dqn', ynn_products=True, alone=True)
