"""Deep Q-learning on Atari games (Salimans & Kingma 2016, §5.4).

  python -m experiments.dqn --help

lists the options; configs/dqn.py describes the variants.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('dqn', ynn_products=True, alone=True)
