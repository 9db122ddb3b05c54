"""Variational autoencoders (Salimans & Kingma 2016, §5.2): weight-normalised or not.

  python -m experiments.vae --config configs/vae.py:DATASET-POSTERIOR-PARAM[,PROTOCOL]
    [--config.KEY=VALUE ...]

DATASET is `mnist` or `digits` (scikit-learn's, 8×8, no download) for the convolutional VAE on bits,
or `cifar10` for the ResNet VAE. POSTERIOR is `diag` or `iaf` (inverse autoregressive flow; the
paper's Figure 2). PARAM is `plain` or `wn`. PROTOCOL is

  paper   (default) MNIST: the paper's network; its batch size and epochs are not known.
          CIFAR-10: the authors' code.
  scaled  narrower, for two CPU cores.
  tiny    seconds, for tests.
"""

from ml_collections import config_dict

from configs import spec as spec_lib

DATASETS = ('mnist', 'digits', 'cifar10')
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
  'cifar10_scaled': [(f'cifar10-iaf-{param},scaled', {'seed': 0}) for param in PARAMS],
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
  config.posterior = posterior
  if dataset == 'cifar10':  # the authors' code
    config.depths = (10, 10)  # layers of latent maps at each level
    config.h = 160  # maps of the deterministic path
    config.z = 32  # latent maps of a layer
    config.free_bits = 0.25  # nats for each latent map
    config.log_scale = True  # g = exp(s); theirs is exp(3 s)
  else:
    config.maps = (16, 32, 32)  # at full, half and quarter resolution
    config.blocks = 2  # residual blocks at each resolution
    config.hidden = 450
    config.latents = 32
    config.flow_steps = 4  # with `iaf`; ours
    config.flow_width = 450  # ours
    config.flow_depth = 1  # ours: hidden layers of a step
    config.free_bits = 0.0
    config.log_scale = False
  config.init_std = 0.05  # of v and of plain weights
  config.init_examples = 100  # for data-dependent initialisation, of both parameterisations; ours
  config.init_scale = 0.1  # of the authors' code for CIFAR-10

  # Arithmetic; ours.
  config.dtype = 'float32'  # or 'bfloat16', of the products in hidden layers; all else is float32

  # Optimisation: the authors' Adamax.
  config.epochs = 200  # ours
  config.batch_size = 16 if dataset == 'cifar10' else 100  # MNIST: ours
  config.learning_rate = 0.002
  config.b1 = 0.9
  config.b2 = 0.999
  config.eps = 1e-8
  config.ema_decay = 0.999  # of the parameters used in evaluation; bias-corrected (ours)

  # The run; all ours.
  config.eval_batch_size = 500
  config.log_every = 50  # steps per row of training metrics
  config.diagnostics = False  # also log norms, gradients and turning of every layer (§2.1)
  config.checkpoint_every = 1000  # steps; also after each epoch
  config.keep_checkpoints = 2  # latest ones; the best is kept as well

  if protocol == 'scaled':
    if dataset == 'cifar10':
      config.depths = (2, 2)
      config.h = 32
      config.z = 8
      config.epochs = 3
    else:
      config.maps = (8, 16, 16)
      config.epochs = 20
  elif protocol == 'tiny':
    if dataset == 'cifar10':
      config.depths = (1, 2)
      config.h = 6
      config.z = 2
    else:
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
