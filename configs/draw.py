"""DRAW on binarised MNIST (Salimans & Kingma 2016, §5.3): weight-normalised recurrence or plain.

  python -m experiments.draw --config configs/draw.py:PARAM[,noattention][,PROTOCOL]
    [--config.KEY=VALUE ...]

PARAM is `plain` or `wn`; both begin as the same function. With `noattention` each glimpse reads and
writes the whole image. PROTOCOL is

  paper   (default) the public implementation that the paper changed, 64 glimpses. Gregor et al.
          (2015) report −log p(x) ≤ 80.97 nats with attention and 87.40 without.
  scaled  16 glimpses that read 5×5 values, 20 epochs: 20 minutes on two CPU cores that do nothing
          else.
  tiny    scikit-learn's 8×8 digits, in the package: no download, seconds.

Values are those of that implementation, github.com/jbornschein/draw, unless a comment says
otherwise.
"""

from ml_collections import config_dict

from configs import spec as spec_lib

PARAMS = ('plain', 'wn')
OPTIONS = ('noattention',)
VARIANTS = (*PARAMS, *(f'{param}-{option}' for param in PARAMS for option in OPTIONS))
PROTOCOLS = ('paper', 'scaled', 'tiny')

SWEEPS = {
  # Figure 3. Three seeds are ours.
  'figure3': [(param, {'seed': seed}) for seed in (0, 1, 2) for param in PARAMS],
  # The same at the scale of two CPU cores.
  'scaled': [(f'{param},scaled', {'seed': seed}) for seed in (0, 1, 2) for param in PARAMS],
  'tiny': [(f'{param},tiny', {'seed': seed}) for seed in (0, 1) for param in PARAMS],
}


def get_config(spec: str = 'wn') -> config_dict.ConfigDict:
  """The configuration of `spec`, 'PARAM' and then, if wanted, ',noattention' and ',PROTOCOL'."""
  variant, protocol = spec_lib.split(spec, PARAMS, PROTOCOLS, OPTIONS)
  config = config_dict.ConfigDict()
  config.experiment = 'draw'
  config.variant = variant
  config.protocol = protocol
  config.seed = 0

  # Data: images as probabilities of bits, drawn anew in training and once for the test (ours).
  config.dataset = 'mnist'
  config.train_examples = 0  # the first so many training images; 0: all

  # Network.
  config.param = variant.removesuffix('-noattention')
  config.attention = not variant.endswith('-noattention')
  config.glimpses = 64  # T
  config.encoder_units = 256
  config.decoder_units = 256
  config.latents = 100  # of each glimpse
  config.read_window = 2  # N; without attention not used
  config.write_window = 5  # N; without attention not used
  config.init_std = 0.01  # of v and of plain weights; all biases start at 0, forget gates' included

  # Arithmetic; ours.
  config.dtype = 'float32'  # or 'bfloat16', of the products in the LSTMs; all else is float32

  # Optimisation: Adam.
  config.epochs = 100
  config.batch_size = 100
  config.learning_rate = 0.0003
  config.b1 = 0.9
  config.b2 = 0.999
  config.eps = 1e-8
  config.clip_norm = 10.0  # of the gradient of all parameters together

  # The run; all ours.
  config.remat = False  # compute every glimpse twice and need a quarter of the memory
  config.eval_batch_size = 500
  config.log_every = 50  # steps per row of training metrics
  config.diagnostics = False  # also log norms, gradients and turning of every layer (§2.1)
  config.checkpoint_every = 1000  # steps; also after each epoch
  config.keep_checkpoints = 2  # latest ones; the best is kept as well

  if protocol == 'scaled':
    config.glimpses = 16
    # Ours. At the start a grid spans the whole image: one of 2×2 filters reads the four corners,
    # which are blank, and with 16 glimpses the first epochs learn nothing but the mean image.
    config.read_window = 5
    config.epochs = 20
    config.learning_rate = 0.001  # of the public implementation where it is not told another
  elif protocol == 'tiny':
    config.dataset = 'digits'
    config.train_examples = 300
    config.glimpses = 4
    config.encoder_units = 16
    config.decoder_units = 16
    config.latents = 4
    config.write_window = 3
    config.epochs = 3
    config.batch_size = 50
    config.learning_rate = 0.02
    config.log_every = 3
  return config
