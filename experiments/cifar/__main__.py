"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1).

  python -m experiments.cifar --config configs/cifar.py:VARIANT[,PROTOCOL] [--config.KEY=VALUE ...]

VARIANT: plain, wn, bn, mean_bn, wn_mean_bn. PROTOCOL: paper (default), scaled, digits, tiny.
"""

from experiments.training import cli

if __name__ == '__main__':
  cli.run('cifar')
