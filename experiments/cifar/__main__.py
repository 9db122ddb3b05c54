"""Entry point: `python -m experiments.cifar --config configs/cifar.py:wn,scaled`."""

from experiments.cifar.train import train
from experiments.training import cli

if __name__ == '__main__':
  cli.run(train)
