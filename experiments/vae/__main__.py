"""Variational autoencoders (Salimans & Kingma 2016, §5.2).

  python -m experiments.vae --help

shows what can be chosen, as configs/vae.py has it.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('vae')
