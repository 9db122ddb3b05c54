"""DRAW on binarized MNIST (Salimans & Kingma 2016, §5.3): weight-normalized recurrence or plain.

  python -m experiments.draw --config configs/draw.py:PARAM[,noattention][,PROTOCOL]
    [--config.KEY=VALUE ...]
  python -m experiments.draw --config configs/draw.py:wn  # for example

PARAM is `plain` or `wn`, whose v starts as the weights of `plain`. With `noattention`, each glimpse
reads and writes the whole image. PROTOCOL is

  paper   (default) the public implementation that the paper changed, 64 glimpses, 100 epochs. Read
          off Figure 4, bound on log p(x): wn −102.5 nats after 10 epochs, −94 after 20, −85 after
          100; plain −120 after 37, −89.5 after 100.
  scaled  16 glimpses with a 5×5 read window, 20 epochs: about half an hour on a CPU core.
  digits  scikit-learn's 8×8 digits: no download, a minute or two.
  tiny    the same, smaller: seconds, for tests.

(P) marks values of the paper, (C) those of the public implementation that it changed,
github.com/jbornschein/draw; the others are ours.
"""

from ml_collections import config_dict

from configs import spec as spec_lib
from configs import variants

PARAMS = variants.PARAMETERIZATIONS
OPTIONS = variants.DRAW_OPTIONS
VARIANTS = (*PARAMS, *(f'{param}-{option}' for param in PARAMS for option in OPTIONS))
PROTOCOLS = ('paper', 'scaled', 'digits', 'tiny')

SWEEPS = {
  # Figure 4; the three seeds are ours.
  'figure4': [(param, {'seed': seed}) for seed in (0, 1, 2) for param in PARAMS],
  # The start of the paper's runs, enough to show the effect; there is no schedule to cut short.
  'figure4_prefix': [
    (param, {'epochs': epochs, 'seed': seed})
    for seed in (0, 1)
    for param, epochs in (('wn', 20), ('plain', 40))
  ],
  # The same for two CPU cores.
  'scaled': [(f'{param},scaled', {'seed': seed}) for seed in (0, 1, 2) for param in PARAMS],
  'tiny': [(f'{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'PARAM[,noattention][,PROTOCOL]'."""
  parameterization, option, protocol = spec_lib.split_option(spec, PARAMS, PROTOCOLS, OPTIONS)
  config = config_dict.ConfigDict()
  config.experiment = 'draw'
  config.protocol = protocol
  config.variant = config_dict.ConfigDict({'parameterization': parameterization, 'option': option})
  config.seed = 0

  # Pixels are probabilities of bits, sampled at every use in training and once for testing. (C)
  # uses a fixed binarization by others.
  config.data = data = config_dict.ConfigDict()
  data.name = 'mnist'  # (P)
  data.train_examples = 50_000  # (C) uses the first N training images; 0: all

  config.model = model = config_dict.ConfigDict()
  model.glimpses = 64  # (P) T
  model.encoder_units = 256  # (C)
  model.decoder_units = 256  # (C)
  model.latents = 100  # (C) per glimpse
  model.read_window = 2  # (C) N; unused without attention
  model.write_window = 5  # (C) N; unused without attention
  model.peepholes = True  # (C) gates of both LSTMs also see the cell
  model.init_std = 0.01  # (C) of v and of plain weights; all biases start at 0
  model.initial_g = 1.0  # of wn; as in the authors' layers. 0: ‖v‖, the function of plain
  model.remat = False  # computes each glimpse twice, in a quarter of the memory
  model.dtype = 'float32'  # or 'bfloat16'; of products in the LSTMs, the rest is float32

  config.optimizer = optimizer = config_dict.ConfigDict()  # Adam
  optimizer.learning_rate = 0.0003  # (C)
  optimizer.b1 = 0.9  # (C)
  optimizer.b2 = 0.999  # (C)
  optimizer.eps = 1e-8  # (C)
  optimizer.clip_norm = 10.0  # (C) of the global norm of the gradient

  config.epochs = 100  # (P)
  config.batch_size = 100  # (C): 500 updates an epoch

  config.run = run = config_dict.ConfigDict()
  run.eval_batch_size = 500
  run.steps_per_call = 1  # more: fewer waits for Python; for GPUs alone
  run.log_every = 50  # steps per row of training metrics
  run.diagnostics = False  # also log norms, gradients and rotation of each layer (§2.1)
  run.checkpoint_every = 500  # steps; also after each epoch
  run.keep_checkpoints = 2  # the latest; the best is kept too

  if protocol == 'scaled':
    model.glimpses = 16
    # Initially the grid spans the whole image. With 2×2 filters it reads the four blank corners,
    # and with 16 glimpses the first epochs learn only the mean image.
    model.read_window = 5
    optimizer.learning_rate = 0.001  # the default of the public implementation's command line
    config.epochs = 20
  elif protocol == 'digits':
    data.name = 'digits'
    data.train_examples = 0
    model.glimpses = 8
    model.encoder_units = 64
    model.decoder_units = 64
    model.latents = 10
    model.read_window = 4
    model.write_window = 4
    model.init_std = 0.1  # with 0.01 it learns the mean image alone in this time
    optimizer.learning_rate = 0.003
    config.epochs = 30
    config.batch_size = 50
    run.log_every = 10
  elif protocol == 'tiny':
    data.name = 'digits'
    data.train_examples = 300
    model.glimpses = 4
    model.encoder_units = 16
    model.decoder_units = 16
    model.latents = 4
    model.write_window = 3
    optimizer.learning_rate = 0.02
    config.epochs = 3
    config.batch_size = 50
    run.log_every = 3
    run.checkpoint_every = 1000
  return config
