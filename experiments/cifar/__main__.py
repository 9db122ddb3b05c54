"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1).

  python -m experiments.cifar --help

shows what can be chosen, as configs/cifar.py has it.
"""

from experiments.training import cli

if __name__ == '__main__':
  cli.run('cifar')
