"""DRAW on binarised MNIST (Salimans & Kingma 2016, §5.3): weight-normalised recurrence or plain.

  python -m experiments.draw --config configs/draw.py:PARAM[,noattention][,PROTOCOL]
    [--config.KEY=VALUE ...]
  python -m experiments.draw --config configs/draw.py:wn  # for example

PARAM is `plain` or `wn`; both begin as the same function. With `noattention` each glimpse reads and
writes the whole image. PROTOCOL is

  paper   (default) the public implementation that the paper changed, 64 glimpses, 100 epochs. Read
          off Figure 4, bound on log p(x): wn −102.5 nats after 10 epochs, −94 after 20, −85 after
          100; plain −120 after 37, −89.5 after 100.
  scaled  16 glimpses that read 5×5 values, 20 epochs: about half an hour on a CPU core.
  tiny    scikit-learn's 8×8 digits, in the package: no download, seconds.

(P) marks a value of the paper, (C) one of the public implementation that it changed,
github.com/jbornschein/draw; the others are ours.
"""

from ml_collections import config_dict

from configs import spec as spec_lib
from configs import variants

PARAMS = variants.PARAMETERIZATIONS
OPTIONS = variants.DRAW_OPTIONS
VARIANTS = (*PARAMS, *(f'{param}-{option}' for param in PARAMS for option in OPTIONS))
PROTOCOLS = ('paper', 'scaled', 'tiny')

SWEEPS = {
  # Figure 4. Three seeds are ours.
  'figure4': [(param, {'seed': seed}) for seed in (0, 1, 2) for param in PARAMS],
  # A prefix of the paper's runs that shows the effect; there is no schedule to be cut.
  'figure4_prefix': [
    (param, {'epochs': epochs, 'seed': seed})
    for seed in (0, 1)
    for param, epochs in (('wn', 20), ('plain', 40))
  ],
  # The same at the scale of two CPU cores.
  'scaled': [(f'{param},scaled', {'seed': seed}) for seed in (0, 1, 2) for param in PARAMS],
  'tiny': [(f'{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'PARAM' and then, if wanted, ',noattention' and ',PROTOCOL'."""
  parameterization, option, protocol = spec_lib.split_option(spec, PARAMS, PROTOCOLS, OPTIONS)
  config = config_dict.ConfigDict()
  config.experiment = 'draw'
  config.protocol = protocol
  config.variant = config_dict.ConfigDict({'parameterization': parameterization, 'option': option})
  config.seed = 0

  # Images as probabilities of bits, drawn anew in training and once for the test. (C) has a
  # binarisation that others drew once.
  config.data = data = config_dict.ConfigDict()
  data.name = 'mnist'  # (P)
  data.train_examples = 50_000  # (C) the first so many training images; 0: all

  config.model = model = config_dict.ConfigDict()
  model.glimpses = 64  # (P) T
  model.encoder_units = 256  # (C)
  model.decoder_units = 256  # (C)
  model.latents = 100  # (C) of each glimpse
  model.read_window = 2  # (C) N; without attention not used
  model.write_window = 5  # (C) N; without attention not used
  model.peepholes = True  # (C) the gates of both LSTMs also see the cell
  model.init_std = 0.01  # (C) of v and of plain weights; all biases start at 0, forget gates' too
  model.remat = False  # compute every glimpse twice and need a quarter of the memory
  model.dtype = 'float32'  # or 'bfloat16', of the products in the LSTMs; all else is float32

  config.optimizer = optimizer = config_dict.ConfigDict()  # Adam
  optimizer.learning_rate = 0.0003  # (C)
  optimizer.b1 = 0.9  # (C)
  optimizer.b2 = 0.999  # (C)
  optimizer.eps = 1e-8  # (C)
  optimizer.clip_norm = 10.0  # (C) of the gradient of all parameters together

  config.epochs = 100  # (P)
  config.batch_size = 100  # (C): 500 updates an epoch

  config.run = run = config_dict.ConfigDict()
  run.eval_batch_size = 500
  run.log_every = 50  # steps per row of training metrics
  run.diagnostics = False  # also log norms, gradients and turning of every layer (§2.1)
  run.checkpoint_every = 500  # steps; also after each epoch
  run.keep_checkpoints = 2  # latest ones; the best is kept as well

  if protocol == 'scaled':
    model.glimpses = 16
    # At the start a grid spans the whole image: one of 2×2 filters reads the four corners, which
    # are blank, and with 16 glimpses the first epochs learn nothing but the mean image.
    model.read_window = 5
    optimizer.learning_rate = 0.001  # the default of the public implementation's command line
    config.epochs = 20
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
