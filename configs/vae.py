"""Variational autoencoders (Salimans & Kingma 2016, §5.2): weight-normalised or not.

  python -m experiments.vae --config configs/vae.py:DATASET-POSTERIOR-PARAM[,PROTOCOL]
    [--config.KEY=VALUE ...]

DATASET is `mnist` or `digits` (scikit-learn's, 8×8, no download). POSTERIOR is `diag` or `iaf`
(inverse autoregressive flow; the paper's Figure 2). PARAM is `plain` or `wn`. PROTOCOL is

  paper   (default) the paper's convolutional VAE. Its batch size and epochs are not known.
  scaled  the same with half of the feature maps and 20 epochs, for two CPU cores.
  tiny    seconds, for tests.
"""

from ml_collections import config_dict

from configs import spec as spec_lib

DATASETS = ('mnist', 'digits')
POSTERIORS = ('diag', 'iaf')
PARAMS = ('plain', 'wn')
VARIANTS = tuple(f'{d}-{q}-{p}' for d in DATASETS for q in POSTERIORS for p in PARAMS)
PROTOCOLS = ('paper', 'scaled', 'tiny')

SWEEPS = {
  # Figure 2.
  'figure2': [
    (f'mnist-{posterior}-{param}', {'seed': seed})
    for seed in (0, 1, 2)
    for posterior in POSTERIORS
    for param in PARAMS
  ],
  'scaled': [
    (f'mnist-{posterior}-{param},scaled', {'seed': seed})
    for seed in (0, 1, 2)
    for posterior in POSTERIORS
    for param in PARAMS
  ],
  'tiny': [(f'digits-iaf-{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'mnist-iaf-wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'DATASET-POSTERIOR-PARAM' or that and ',PROTOCOL'."""
  variant, protocol = spec_lib.split(spec, VARIANTS, PROTOCOLS)
  dataset, posterior, param = variant.split('-')
  config = config_dict.ConfigDict()
  config.experiment = 'vae'
  config.variant = variant
  config.protocol = protocol
  config.seed = 0

  # Data: images as probabilities of bits, drawn anew in training and once for the test (ours).
  config.dataset = dataset
  config.train_examples = 0  # the first so many training images; 0: all

  # Network.
  config.param = param
  config.maps = (16, 32, 32)  # at full, half and quarter resolution
  config.blocks = 2  # residual blocks at each resolution
  config.hidden = 450
  config.latents = 32
  config.posterior = posterior
  config.flow_steps = 4  # with `iaf`; ours
  config.flow_width = 450  # ours
  config.flow_depth = 1  # ours: hidden layers of a step
  config.init_std = 0.05  # of v and of plain weights
  config.init_examples = 100  # for data-dependent initialisation, of both parameterisations; ours
  config.init_scale = 0.1  # of the authors' code for CIFAR-10

  # Optimisation: the authors' Adamax.
  config.epochs = 200  # ours
  config.batch_size = 100  # ours
  config.learning_rate = 0.002
  config.b1 = 0.9
  config.b2 = 0.999
  config.eps = 1e-8
  config.ema_decay = 0.999  # of the parameters used in evaluation

  # The run; all ours.
  config.eval_batch_size = 500
  config.log_every = 50  # steps per row of training metrics
  config.diagnostics = False  # also log norms, gradients and turning of every layer (§2.1)
  config.checkpoint_every = 1000  # steps; also after each epoch
  config.keep_checkpoints = 2  # latest ones; the best is kept as well

  if protocol == 'scaled':
    config.maps = (8, 16, 16)
    config.epochs = 20
  elif protocol == 'tiny':
    config.maps = (2, 3, 4)
    config.blocks = 1
    config.hidden = 16
    config.latents = 4
    config.flow_steps = 2
    config.flow_width = 8
    config.epochs = 2
    config.batch_size = 50
    config.train_examples = 300
    config.log_every = 3
    config.ema_decay = 0.9
  return config
