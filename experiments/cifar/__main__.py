"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1).

  python -m experiments.cifar --help

shows what can be chosen, as configs/cifar.py has it.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('cifar')
