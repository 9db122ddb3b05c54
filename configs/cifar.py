"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1): one network, five parameterizations.

  python -m experiments.cifar --config configs/cifar.py:VARIANT[,PROTOCOL] [--config.KEY=VALUE ...]
  python -m experiments.cifar --config configs/cifar.py:wn,digits  # for example

VARIANT is one of the paper's five, `plain`, `wn`, `bn`, `mean_bn` and `wn_mean_bn`, or
`plain_released`, the normal parameterization of the authors' code. PROTOCOL is

  paper   (default) 200 epochs at full width. Test error in Figure 2: plain 8.43, wn 8.46, bn 8.05,
          mean_bn 8.52, wn_mean_bn 7.31 %.
  fifty   a third of the width and 50 epochs, with the schedule scaled to match: long enough for
          wn to leave plain behind, as in Figure 1.
  scaled  a third of the width and 12 epochs: ten minutes on two idle CPU cores.
  digits  scikit-learn's 8×8 digits: no download, about a minute.
  tiny    `digits` in seconds, for tests.

(P) marks values of the paper, (C) those found only in the authors' code; the others are ours.

SWEEPS names lists of trials for `python -m scripts.sweep configs/cifar.py:SWEEP`. A trial is a SPEC
and its overrides, which always include the seed.
"""

from ml_collections import config_dict

from configs import spec as spec_lib
from configs import variants

VARIANTS = variants.CIFAR_PARAMETERIZATIONS
PROTOCOLS = ('paper', 'fifty', 'scaled', 'digits', 'tiny')

RATES = (0.0003, 0.001, 0.003, 0.01)  # (P) the grid for each parameterization
# (P) Figure 1; `plain_released`: the default of the released script.
RATE_OF = {
  'plain': 0.0003,
  'wn': 0.003,
  'bn': 0.003,
  'mean_bn': 0.003,
  'wn_mean_bn': 0.003,
  'plain_released': 0.001,
}

SWEEPS = {
  # Figure 2, over the grid of learning rates; the three seeds are ours.
  'figure2': [
    (variant, {'optimizer.learning_rate': rate, 'seed': seed})
    for seed in (0, 1, 2)
    for rate in RATES
    for variant in variants.CIFAR_PAPER
  ],
  'figure1': [(variant, {'seed': seed}) for seed in (0, 1, 2) for variant in variants.CIFAR_PAPER],
  # The same for two CPU cores.
  'fifty': [
    (f'{variant},fifty', {'seed': seed}) for seed in (0, 1, 2) for variant in variants.CIFAR_PAPER
  ],
  'scaled': [
    (f'{variant},scaled', {'seed': seed}) for seed in (0, 1, 2) for variant in variants.CIFAR_PAPER
  ],
  'scaled_rates': [
    (f'{variant},scaled', {'optimizer.learning_rate': rate, 'seed': 0})
    for rate in RATES
    for variant in variants.CIFAR_PAPER
  ],
  # Without CIFAR-10, in minutes and in seconds.
  'digits': [
    (f'{variant},digits', {'seed': seed}) for seed in (0, 1, 2) for variant in variants.CIFAR_PAPER
  ],
  'tiny': [
    (f'{variant},tiny', {'optimizer.learning_rate': rate, 'seed': seed})
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
  config.protocol = protocol
  config.variant = config_dict.ConfigDict({'parameterization': variant})
  config.seed = 0

  config.data = data = config_dict.ConfigDict()
  data.name = 'cifar10'  # (P)
  data.train_examples = 0  # (P) uses the first N training images; 0: all
  data.whiten = True  # (P)
  data.zca_eps = 1e-5  # (C) added to the eigenvalues of the covariance
  data.upscale = 1  # repeats each pixel along both axes

  config.model = model = config_dict.ConfigDict()
  model.width = 96  # (P) channels of the first block; later ones have twice as many
  model.block_depth = 3  # (P) convolutions in each of the first two blocks
  model.noise_std = 0.15  # (P)
  model.dropout_rate = 0.5  # (P)
  model.init_std = 0.05  # (P) of v and of plain weights
  model.bn_momentum = 0.9  # (C)
  model.bn_eps = 1e-6  # (C)
  model.dtype = 'float32'  # or 'bfloat16'; of hidden units, while state and sums are float32

  config.init = init = config_dict.ConfigDict()
  init.examples = 500  # (C) for data-dependent initialization
  init.scale = 1.0  # (P)

  # Adam; the learning rate is constant for the first half, then decays linearly to 0 (P).
  config.optimizer = optimizer = config_dict.ConfigDict()
  optimizer.learning_rate = RATE_OF[variant]  # (P), or (C) for `plain_released`
  optimizer.b1 = 0.9  # (P)
  optimizer.b1_second_half = 0.5  # (P)
  optimizer.b2 = 0.999  # (C)
  optimizer.eps_root = 1e-8  # (C) inside the root: step = lr m̂ / √(v̂ + eps_root)

  config.epochs = 200  # (P)
  config.batch_size = 100  # (P)
  config.ema_epochs = 0.0  # evaluates parameters averaged over about N epochs; 0: none

  config.run = run = config_dict.ConfigDict()
  run.eval_batch_size = 500
  run.steps_per_call = 1  # more: fewer waits for Python; for GPUs alone
  run.log_every = 50  # steps per row of training metrics
  run.diagnostics = False  # also log norms, gradients and rotation of each layer (§2.1)
  run.checkpoint_every = 500  # steps; also after each epoch
  run.keep_checkpoints = 2  # the latest; the best is kept too
  run.cpu_winograd = True  # Winograd's F(2×2, 3×3) for 3×3 convolutions on a CPU

  if protocol in ('fifty', 'scaled'):
    model.width = 32
    config.epochs = 50 if protocol == 'fifty' else 12
  elif protocol in ('digits', 'tiny'):
    data.name = 'digits'
    data.upscale = 2  # two poolings and a 3×3 'VALID' convolution need 12 pixels
    data.whiten = False  # most border pixels are constant
    model.width = 16
    optimizer.learning_rate = 0.001  # the same for all variants
    config.epochs = 15
    config.batch_size = 50
    run.log_every = 5
    run.checkpoint_every = 100
  if protocol == 'tiny':
    data.train_examples = 300
    model.width = 4
    init.examples = 100
    config.epochs = 3
  return config
