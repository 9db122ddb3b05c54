"""Trains tiny runs on one and on all devices: `python -m tests.experiments.meshes DIRECTORY`.

A program of its own, as the number of virtual devices is fixed when JAX starts. The metrics of each
run are in DIRECTORY/EXPERIMENT-VARIANT/DEVICES/metrics.jsonl.
"""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import config_dict

from experiments.training import data, run

# Statistics of the batch, data-dependent initialisation, dropout, moving averages, recurrence.
RUNS = (
  ('cifar', 'wn_mean_bn,tiny', {'ema_decay': 0.5}),
  ('vae', 'digits-iaf-wn,tiny', {}),
  ('draw', 'wn,tiny', {}),
)
# Two steps of an epoch, after each the metrics, and a last batch of the test that is not full. A
# single CPU would get a convolution of its own, with other rounding.
CHANGES = {'epochs': 1, 'train_examples': 96, 'batch_size': 48, 'log_every': 1}
CHANGES |= {'eval_batch_size': 64, 'init_examples': 48, 'cpu_winograd': False}


def main(directory: Path) -> None:
  for experiment, spec, changes in RUNS:
    config = importlib.import_module(f'configs.{experiment}').get_config(spec)
    changes = CHANGES | changes
    config.update({key: changes[key] for key in changes if key in config})
    config = config_dict.FrozenConfigDict(config)
    module = importlib.import_module(f'experiments.{experiment}.train')
    module.pictures.write = lambda *_: None
    for devices in (jax.devices()[:1], jax.devices()):
      workdir = directory / f'{experiment}-{config.variant}' / str(len(devices))
      run.create_workdir(workdir, config)
      mesh = jax.sharding.Mesh(np.asarray(devices), ('data',))
      module.run_experiment(config, workdir, data.load('digits'), mesh)


if __name__ == '__main__':
  main(Path(sys.argv[1]))
