"""DRAW on binarised MNIST (Salimans & Kingma 2016, §5.3).

  python -m experiments.draw --config configs/draw.py:PARAM[,noattention][,PROTOCOL]
    [--config.KEY=VALUE ...]

PARAM: plain, wn. PROTOCOL: paper (default), scaled, tiny.
"""

from experiments.training import cli

if __name__ == '__main__':
  cli.run('draw')
