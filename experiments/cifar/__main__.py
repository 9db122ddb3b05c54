"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1).

  python -m experiments.cifar --help

lists the options; configs/cifar.py defines them.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('cifar')
