"""DRAW on MNIST (Salimans & Kingma 2016, §5.3).

  python -m experiments.draw --help

lists the options; configs/draw.py defines them.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('draw', ynn_products=True)
