"""Variational autoencoders (Salimans & Kingma 2016, §5.2).

  python -m experiments.vae --config configs/vae.py:DATASET-POSTERIOR-PARAM[,PROTOCOL]
    [--config.KEY=VALUE ...]

DATASET: mnist, digits. POSTERIOR: diag, iaf. PARAM: plain, wn. PROTOCOL: paper (default), scaled,
tiny.
"""

from experiments.training import cli

if __name__ == '__main__':
  cli.run('vae')
