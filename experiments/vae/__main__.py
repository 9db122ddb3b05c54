"""Variational autoencoders (Salimans & Kingma 2016, §5.2).

  python -m experiments.vae --help

lists the options; configs/vae.py describes the variants.
"""

from experiments.runtime import command_line

if __name__ == '__main__':
  command_line.run('vae')
