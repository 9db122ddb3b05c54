"""Variational autoencoders (Salimans & Kingma 2016, §5.2): weight-normalized or not.

  python -m experiments.vae --config configs/vae.py:DATASET-POSTERIOR-PARAM[,PROTOCOL]
    [--config.KEY=VALUE ...]
  python -m experiments.vae --config configs/vae.py:mnist-iaf-wn  # for example

DATASET is `mnist` or `digits` (scikit-learn's, 8×8, no download) for the convolutional VAE on bits,
or `cifar10` for the ResNet VAE. POSTERIOR is `diag` or the paper's `iaf` (inverse autoregressive
flow). PARAM is `plain` or `wn`. PROTOCOL is

  paper   (default) Figure 3. Read off its curves, bound on log p(x): MNIST wn −85.3, plain −85.85
          nats after 300 epochs; CIFAR-10, authors' code for wn: 3.28 bits per dimension.
  scaled  narrower, for two CPU cores.
  tiny    seconds, for tests.

(P) marks values of the paper and (C) those of the authors' code, github.com/openai/iaf; the others
are ours. (C1) is its Theano version, with the 3.28 bits per dimension, (C2) its TensorFlow version,
and (C) both. Both train on CIFAR-10, C1 also on binarized MNIST. docs/PROTOCOLS.md says which part
follows which.
"""

from ml_collections import config_dict

from configs import spec as spec_lib
from configs import variants

DATASETS = variants.VAE_DATASETS
POSTERIORS = variants.VAE_POSTERIORS
PARAMS = variants.PARAMETERIZATIONS
VARIANTS = tuple(f'{d}-{q}-{p}' for d in DATASETS for q in POSTERIORS for p in PARAMS)
PROTOCOLS = ('paper', 'scaled', 'tiny')

SWEEPS = {
  # Both panels of Figure 3; the three seeds are ours.
  'figure3': [
    (f'{dataset}-iaf-{param}', {'seed': seed})
    for seed in (0, 1, 2)
    for dataset in ('mnist', 'cifar10')
    for param in PARAMS
  ],
  'scaled': [
    (f'mnist-{posterior}-{param},scaled', {'seed': seed})
    for seed in (0, 1, 2)
    for posterior in POSTERIORS
    for param in PARAMS
  ],
  'cifar10_scaled': [
    (f'cifar10-iaf-{param},scaled', {'seed': seed}) for seed in (0, 1) for param in PARAMS
  ],
  'tiny': [(f'digits-iaf-{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'mnist-iaf-wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'DATASET-POSTERIOR-PARAM[,PROTOCOL]'."""
  variant, protocol = spec_lib.split(spec, VARIANTS, PROTOCOLS)
  dataset, posterior, parameterization = variant.split('-')
  is_cifar10 = dataset == 'cifar10'
  config = config_dict.ConfigDict()
  config.experiment = 'vae'
  config.protocol = protocol
  config.variant = config_dict.ConfigDict(
    {'dataset': dataset, 'posterior': posterior, 'parameterization': parameterization}
  )
  config.seed = 0

  config.data = data = config_dict.ConfigDict()
  data.train_examples = 0  # uses the first N training images; 0: all

  config.model = model = config_dict.ConfigDict()
  if is_cifar10:
    model.depths = (10, 10)  # (C1) layers of latents at each level
    model.h = 160  # (C) channels of the deterministic path
    model.z = 32  # (C) latent channels of a layer
    # (C) 'floor': adds 1e-7 to the probability of a bin, and edge bins exclude the tails;
    # 'tails': edge bins include them, so all bins sum to 1 (ours).
    model.edge_bins = 'floor'
  else:
    data.binarize = 'anew'  # training images, at every use; or 'once', like test images
    model.maps = (16, 32, 32)  # (P) channels at full, half and quarter resolution
    model.blocks = 2  # (P) residual blocks at each resolution
    model.hidden = 450  # (P)
    model.latents = 32
    model.flow_steps = 4  # with `iaf`
    model.flow_width = 450
    model.flow_depth = 1  # hidden layers of a step

  config.layers = layers = config_dict.ConfigDict()
  layers.init_std = 0.05  # (P) of v and of plain weights
  # c where g = exp(c s): 3 in (C1); C2 stores log(g)/3 and computes exp(s). 0: g (ours, for bits).
  layers.log_scale = 3.0 if is_cifar10 else 0.0
  layers.dtype = 'float32'  # or 'bfloat16'; of products in hidden layers, the rest is float32

  # Data-dependent initialization of both parameterizations (P).
  config.init = init = config_dict.ConfigDict()
  init.examples = 100  # ours; in (C) a minibatch of 16
  init.scale = 0.1  # (C) standard deviation of pre-activations
  # In the flow: 1 in convolutions of (C), but 0.1 in dense layers of (C1).
  init.flow_scale = 1.0 if is_cifar10 else 0.1

  config.optimizer = optimizer = config_dict.ConfigDict()  # Adamax (P)
  optimizer.learning_rate = 0.002  # (P)
  optimizer.b1 = 0.9  # (C)
  optimizer.b2 = 0.999  # (C)
  optimizer.eps = 1e-8  # (C) added to |∇| (C1); in C2 to the decaying maximum

  config.epochs = 450 if is_cifar10 else 300  # (P) the length of Figure 3
  config.batch_size = 16 if is_cifar10 else 100  # (C1), C2: 16 for each of 8 GPUs; bits: ours
  config.free_bits = 0.25 if is_cifar10 else 0.0  # (C) nats per latent channel; bits: ours
  # (P) evaluates parameters averaged over about N epochs, 0.3 for CIFAR-10 in (C1); 0: none
  config.ema_epochs = 10.0

  config.run = run = config_dict.ConfigDict()
  run.eval_batch_size = 500
  run.steps_per_call = 1  # more: fewer waits for Python; for GPUs alone
  run.log_every = 50  # steps per row of training metrics
  run.diagnostics = False  # also log norms, gradients and rotation of each layer (§2.1)
  run.checkpoint_every = 1000  # steps; also after each epoch
  run.keep_checkpoints = 2  # the latest; the best is kept too

  if protocol == 'scaled':
    if is_cifar10:
      model.depths = (2, 2)
      model.h = 32
      model.z = 8
      config.epochs = 3
      config.ema_epochs = 0.3  # ten epochs would be longer than the run
    else:
      model.maps = (8, 16, 16)
      config.epochs = 20
      config.ema_epochs = 2.0
  elif protocol == 'tiny':
    if is_cifar10:
      model.depths = (1, 2)
      model.h = 6
      model.z = 2
    else:
      model.maps = (2, 3, 4)
      model.blocks = 1
      model.hidden = 16
      model.latents = 4
      model.flow_steps = 2
      model.flow_width = 8
    data.train_examples = 300
    config.epochs = 2
    config.batch_size = 50
    config.ema_epochs = 1.0
    run.log_every = 3
  return config
