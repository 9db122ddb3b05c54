"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1): one network, five parameterisations.

  python -m experiments.cifar --config configs/cifar.py:VARIANT[,PROTOCOL] [--config.KEY=VALUE ...]

VARIANT is `plain`, `wn`, `bn`, `mean_bn` or `wn_mean_bn`. PROTOCOL is

  paper   (default) 200 epochs at full width. Test error in Table 1: plain 8.43, wn 8.46, bn 8.05,
          mean_bn 8.52, wn_mean_bn 7.31 %.
  scaled  the same with a third of the width and 12 epochs: 15 minutes on two CPU cores that do
          nothing else, up to 30 beside other work.
  digits  scikit-learn's 8×8 digits, in the package: no download, about a minute.
  tiny    `digits` in seconds, for tests.

Values are the authors' released code unless a comment says otherwise.

SWEEPS names lists of trials for `python -m scripts.sweep configs/cifar.py:SWEEP`; a trial is a SPEC
and the values that it overrides, its seed always among them.
"""

from ml_collections import config_dict

from configs import spec as spec_lib

VARIANTS = ('plain', 'wn', 'bn', 'mean_bn', 'wn_mean_bn')
PROTOCOLS = ('paper', 'scaled', 'digits', 'tiny')
RATES = (0.0003, 0.001, 0.003, 0.01)  # the paper chose one of them per parameterisation

SWEEPS = {
  # Table 1, with the choice of the learning rate. Three seeds are ours.
  'table1': [
    (variant, {'learning_rate': rate, 'seed': seed})
    for seed in (0, 1, 2)
    for rate in RATES
    for variant in VARIANTS
  ],
  # Figure 1 at the learning rate of the authors' code.
  'figure1': [(variant, {'seed': seed}) for seed in (0, 1, 2) for variant in VARIANTS],
  # The same two at the scale of two CPU cores: 15 minutes and more a trial.
  'scaled': [(f'{variant},scaled', {'seed': seed}) for seed in (0, 1, 2) for variant in VARIANTS],
  'scaled_rates': [
    (f'{variant},scaled', {'learning_rate': rate, 'seed': 0})
    for rate in RATES
    for variant in VARIANTS
  ],
  # Without CIFAR-10: minutes, and seconds.
  'digits': [(f'{variant},digits', {'seed': seed}) for seed in (0, 1, 2) for variant in VARIANTS],
  'tiny': [
    (f'{variant},tiny', {'learning_rate': rate, 'seed': seed})
    for seed in (0, 1)
    for rate in (0.001, 0.003)
    for variant in ('plain', 'wn')
  ],
}


def get_config(spec: str = 'wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'VARIANT' or 'VARIANT,PROTOCOL'."""
  variant, protocol = spec_lib.split(spec, VARIANTS, PROTOCOLS)
  config = config_dict.ConfigDict()
  config.experiment = 'cifar'
  config.variant = variant
  config.protocol = protocol
  config.seed = 0

  # Data.
  config.dataset = 'cifar10'
  config.whiten = True
  config.zca_eps = 1e-5  # added to the eigenvalues of the covariance
  config.upscale = 1  # each pixel becomes a square of this side
  config.train_examples = 0  # the first so many training images; 0: all

  # Network.
  config.width = 96  # maps of the first block; the others have twice as many
  config.block_depth = 3  # convolutions in each of the first two blocks
  config.noise_std = 0.15
  config.dropout_rate = 0.5
  config.bn_momentum = 0.9
  config.bn_eps = 1e-6
  config.init_std = 0.05  # of v and of plain weights (authors' plain: Glorot-uniform)
  config.init_examples = 500  # for data-dependent initialisation
  config.init_scale = 1.0

  # Arithmetic; ours.
  config.dtype = 'float32'  # or 'bfloat16', of hidden units; all that is kept or summed is float32
  config.cpu_winograd = True  # 3×3 convolutions on a CPU by Winograd's F(2×2, 3×3)

  # Optimisation: the learning rate is constant for the first half, then falls to 0 linearly.
  config.epochs = 200
  config.batch_size = 100
  config.learning_rate = 0.001  # the paper chose among 0.0003, 0.001, 0.003, 0.01 per method
  config.b1 = 0.9
  config.b1_second_half = 0.5
  config.b2 = 0.999
  config.eps_root = 1e-8  # inside the root: step = lr m̂ / √(v̂ + eps_root)
  config.ema_decay = 0.0  # ours: of the parameters used in evaluation; 0: none

  # The run; all ours.
  config.eval_batch_size = 500
  config.log_every = 50  # steps per row of training metrics
  config.diagnostics = False  # also log norms, gradients and turning of every layer (§2.1)
  config.checkpoint_every = 500  # steps; also after each epoch
  config.keep_checkpoints = 2  # latest ones; the best is kept as well

  if protocol == 'scaled':
    config.width = 32
    config.epochs = 12
  elif protocol in ('digits', 'tiny'):
    config.dataset = 'digits'
    config.upscale = 2  # two poolings and a 3×3 'VALID' convolution need 12 pixels or more
    config.whiten = False  # most border pixels are constant: there is little to whiten
    config.width = 16
    config.epochs = 15
    config.batch_size = 50
    config.log_every = 5
    config.checkpoint_every = 100
  if protocol == 'tiny':
    config.width = 4
    config.epochs = 3
    config.train_examples = 300
    config.init_examples = 100
  return config
