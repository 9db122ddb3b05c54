"""Deep Q-learning on Atari games (Salimans & Kingma 2016, §5.4).

  python -m experiments.dqn --help

shows what can be chosen, as configs/dqn.py has it.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('dqn', ynn_products=True, alone=True)
