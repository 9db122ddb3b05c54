"""Weights of PyTorch models in `nnx` and `wn` models: outputs, a training step, and back."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wn

FILE = Path(__file__).with_name('torch_references.npz')
ADAM = ('hifi_gan', 'wavenet')


@functools.cache
def stored(name):
  with np.load(FILE) as arrays:
    return {
      key.removeprefix(f'{name}/'): arrays[key] for key in arrays if key.startswith(f'{name}/')
    }


def part(reference, prefix):
  return {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}


def torch_references():
  pytest.importorskip('torch')
  from tests.wn import torch_references

  return torch_references


@functools.cache
def live(name):
  return torch_references().reference(name)


SOURCES = [
  pytest.param(stored, id='stored'),
  pytest.param(
    live,
    id='live',
    marks=pytest.mark.skipif(not importlib.util.find_spec('torch'), reason='needs PyTorch'),
  ),
]


# The models, as in torch_references.py, with the features last.


def transposed(kernel_size, padding=0, dilation=1, output_padding=0, **kwargs):
  """Arguments of a ConvTranspose of PyTorch's padding."""
  edge = dilation * (kernel_size - 1) - padding
  padding = [(edge, edge + output_padding)]
  return dict(kernel_size=(kernel_size,), padding=padding, kernel_dilation=dilation, **kwargs)


class ResBlock(nnx.Module):
  def __init__(self, channels, rngs):
    conv = lambda d: wn.Conv(channels, channels, 3, padding=d, kernel_dilation=d, rngs=rngs)
    self.convs1 = nnx.List([conv(d) for d in (1, 3)])
    self.convs2 = nnx.List([conv(1) for _ in range(2)])

  def __call__(self, x):
    for conv1, conv2 in zip(self.convs1, self.convs2):
      x = x + conv2(nnx.leaky_relu(conv1(nnx.leaky_relu(x, 0.1)), 0.1))
    return x


class HifiGan(nnx.Module):
  def __init__(self, rngs):
    self.conv_pre = wn.Conv(6, 16, 7, padding=3, rngs=rngs)
    self.ups = nnx.List(
      [
        wn.ConvTranspose(16, 8, **transposed(8, 2), strides=4, unit_axis=-2, rngs=rngs),
        wn.ConvTranspose(8, 4, **transposed(4, 1), strides=2, unit_axis=-2, rngs=rngs),
      ]
    )
    self.resblocks = nnx.List([ResBlock(channels, rngs) for channels in (8, 4)])
    self.conv_post = wn.Conv(4, 1, 7, padding=3, rngs=rngs)

  def __call__(self, x):
    x = self.conv_pre(x)
    for up, block in zip(self.ups, self.resblocks):
      x = block(up(nnx.leaky_relu(x, 0.1)))
    return jnp.tanh(self.conv_post(nnx.leaky_relu(x, 0.01)))


class WaveNet(nnx.Module):
  def __init__(self, rngs, channels=6, skips=5):
    conv = functools.partial(wn.Conv, padding='CAUSAL', rngs=rngs)
    self.channels = channels
    self.start = conv(3, channels, 1)
    self.gated = nnx.List([conv(channels, 2 * channels, 2, kernel_dilation=d) for d in (1, 2, 4)])
    self.res_skip = nnx.List([conv(channels, channels + skips, 1) for _ in range(3)])
    self.end = conv(skips, 4, 1)

  def __call__(self, x):
    x = self.start(x)
    skips = 0
    for gated, res_skip in zip(self.gated, self.res_skip):
      a, b = jnp.split(gated(x), 2, -1)
      out = res_skip(jnp.tanh(a) * nnx.sigmoid(b))
      x = x + out[..., : self.channels]
      skips = skips + out[..., self.channels :]
    return self.end(nnx.relu(skips))


class EncoderLayer(nnx.Module):
  def __init__(self, features, rngs):
    self.attention = nnx.MultiHeadAttention(2, features, decode=False, rngs=rngs)
    self.layer_norm = nnx.LayerNorm(features, epsilon=1e-5, rngs=rngs)
    self.intermediate_dense = nnx.Linear(features, 2 * features, rngs=rngs)
    self.output_dense = nnx.Linear(2 * features, features, rngs=rngs)
    self.final_layer_norm = nnx.LayerNorm(features, epsilon=1e-5, rngs=rngs)

  def __call__(self, x):
    x = self.layer_norm(x + self.attention(x))
    hidden = nnx.gelu(self.intermediate_dense(x), approximate=False)
    return self.final_layer_norm(x + self.output_dense(hidden))


class Wav2Vec2(nnx.Module):
  def __init__(self, rngs, features=8):
    self.positions = wn.Conv(
      features, features, 6, padding=3, feature_group_count=2, unit_axis=0, rngs=rngs
    )
    self.layer_norm = nnx.LayerNorm(features, epsilon=1e-5, rngs=rngs)
    self.layers = nnx.List([EncoderLayer(features, rngs)])

  def __call__(self, x):
    positions = self.positions(x)[:, :-1]
    x = self.layer_norm(x + nnx.gelu(positions, approximate=False))
    for layer in self.layers:
      x = layer(x)
    return x


WAV2VEC2_NAMES = {'pos_conv_embed.conv': 'positions'} | {
  f'layers.0.{name}': f'layers.0.{path}'
  for name, path in {
    'attention.q_proj': 'attention.query',
    'attention.k_proj': 'attention.key',
    'attention.v_proj': 'attention.value',
    'attention.out_proj': 'attention.out',
    'feed_forward.intermediate_dense': 'intermediate_dense',
    'feed_forward.output_dense': 'output_dense',
  }.items()
}


class Recurrent(nnx.Module):
  def __init__(self, cell, rngs, second_bias=False):
    self.rnn = nnx.RNN(cell(3, 5, rngs=rngs), rngs=rngs)
    if second_bias:
      self.rnn.cell.dense_h = wn.Linear(5, 15, rngs=rngs)
    self.head = nnx.Linear(5, 2, rngs=rngs)

  def __call__(self, x):
    return self.head(self.rnn(x))


def rnn_cell(*args, rngs):
  return wn.unfold(nnx.SimpleCell(*args, rngs=rngs))


def optimized_lstm(*args, rngs):
  return wn.unfold(nnx.OptimizedLSTMCell(*args, rngs=rngs))


# Id: the reference's name, its model.
conv, transpose = dict(padding='VALID'), dict(in_features=4, out_features=3, strides=2)
BATCH_NORM = dict(use_running_average=True)
MODELS = {
  'linear_plain': lambda rngs: nnx.Linear(3, 4, rngs=rngs),
  'linear': lambda rngs: wn.Linear(3, 4, rngs=rngs),
  'linear_new': lambda rngs: wn.Linear(3, 4, use_bias=False, rngs=rngs),
  'linear_dim_1': lambda rngs: wn.Linear(3, 4, unit_axis=0, rngs=rngs),
  'linear_dim_none': lambda rngs: wn.Linear(3, 4, unit_axis=None, rngs=rngs),
  'linear_general': lambda rngs: wn.LinearGeneral(3, (2, 2), rngs=rngs),
  'conv1d': lambda rngs: wn.Conv(
    4, 6, 3, 2, kernel_dilation=2, feature_group_count=2, **conv, rngs=rngs
  ),
  'conv1d_plain': lambda rngs: nnx.Conv(4, 6, 3, padding=1, rngs=rngs),
  'conv1d_dim_2': lambda rngs: wn.Conv(4, 6, 3, **conv, unit_axis=0, rngs=rngs),
  'conv2d': lambda rngs: wn.Conv(4, 6, (3, 2), feature_group_count=2, **conv, rngs=rngs),
  'conv3d': lambda rngs: wn.Conv(2, 3, (3, 2, 1), **conv, rngs=rngs),
  'transpose1d_plain': lambda rngs: nnx.ConvTranspose(
    **transpose, **transposed(5, 1, output_padding=1), rngs=rngs
  ),
  'transpose1d_plain/transpose_kernel': lambda rngs: nnx.ConvTranspose(
    **transpose, **transposed(5, 1, output_padding=1), transpose_kernel=True, rngs=rngs
  ),
  'transpose1d': lambda rngs: wn.ConvTranspose(
    **transpose, **transposed(5, 1, 2), unit_axis=-2, rngs=rngs
  ),
  'transpose1d/transpose_kernel': lambda rngs: wn.ConvTranspose(
    **transpose, **transposed(5, 1, 2), unit_axis=-1, transpose_kernel=True, rngs=rngs
  ),
  'transpose1d_dim_1': lambda rngs: wn.ConvTranspose(**transpose, **transposed(5), rngs=rngs),
  'transpose1d_dim_1/transpose_kernel': lambda rngs: wn.ConvTranspose(
    **transpose, **transposed(5), transpose_kernel=True, rngs=rngs
  ),
  'transpose1d_dim_2': lambda rngs: wn.ConvTranspose(
    **transpose, **transposed(5), unit_axis=0, rngs=rngs
  ),
  'transpose2d': lambda rngs: wn.ConvTranspose(
    4, 3, (3, 2), (2, 1), padding='VALID', unit_axis=-2, rngs=rngs
  ),
  'transpose3d': lambda rngs: wn.ConvTranspose(
    2, 3, (3, 2, 1), (2, 2, 2), padding=[(2, 2), (1, 1), (0, 0)], unit_axis=-2, rngs=rngs
  ),
  'embedding_plain': lambda rngs: nnx.Embed(7, 3, rngs=rngs),
  'embedding': lambda rngs: wn.Embed(7, 3, rngs=rngs),
  'batch_norm': lambda rngs: nnx.BatchNorm(4, **BATCH_NORM, rngs=rngs),
  'layer_norm': lambda rngs: nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs),
  'group_norm': lambda rngs: nnx.GroupNorm(4, num_groups=2, epsilon=1e-5, rngs=rngs),
  'lstm_plain': lambda rngs: Recurrent(nnx.LSTMCell, rngs),
  'lstm_plain/optimized': lambda rngs: Recurrent(nnx.OptimizedLSTMCell, rngs),
  'lstm': lambda rngs: Recurrent(wn.LSTMCell, rngs),
  'lstm/optimized': lambda rngs: Recurrent(optimized_lstm, rngs),
  'lstm_new': lambda rngs: Recurrent(wn.LSTMCell, rngs),
  'gru_plain': lambda rngs: Recurrent(nnx.GRUCell, rngs),
  'gru': lambda rngs: Recurrent(wn.GRUCell, rngs),
  'gru_two_biases': lambda rngs: Recurrent(wn.GRUCell, rngs, second_bias=True),
  'rnn': lambda rngs: Recurrent(rnn_cell, rngs),
  'hifi_gan': HifiGan,
  'wavenet': WaveNet,
  'wav2vec2': Wav2Vec2,
}
# Layers whose weight norm is over other axes than PyTorch's: the same function, another training.
OTHER_AXES = {
  'linear_dim_1': lambda rngs: wn.Linear(3, 4, rngs=rngs),
  'linear_dim_none': lambda rngs: wn.Linear(3, 4, log_scale=True, rngs=rngs),
  'linear': lambda rngs: nnx.Linear(3, 4, rngs=rngs),
  'linear_plain': lambda rngs: wn.Linear(3, 4, rngs=rngs),
  'linear_general': lambda rngs: wn.LinearGeneral(3, (2, 2), unit_axis=-1, rngs=rngs),
  'conv1d_dim_2': lambda rngs: wn.Conv(4, 6, 3, **conv, unit_axis=(0, 2), rngs=rngs),
  'transpose1d': lambda rngs: wn.ConvTranspose(**transpose, **transposed(5, 1, 2), rngs=rngs),
  'transpose1d_dim_2': lambda rngs: wn.ConvTranspose(
    **transpose, **transposed(5), unit_axis=None, rngs=rngs
  ),
  'lstm': lambda rngs: Recurrent(nnx.LSTMCell, rngs),
  'lstm_plain': lambda rngs: Recurrent(wn.LSTMCell, rngs),
}
FIRST = ('conv', 'transpose', 'batch', 'group', 'hifi', 'wavenet')  # features are axis 1


def features_last(name, x):
  return jnp.moveaxis(x, 1, -1) if name.startswith(FIRST) else x


def run(name, model, x):
  """The output in PyTorch's layout."""
  y = model(features_last(name, jnp.asarray(x)))
  y = y.reshape(*y.shape[:1], -1) if name == 'linear_general' else y
  return jnp.moveaxis(y, -1, 1) if name.startswith(FIRST) else y


def rename_of(name):
  return WAV2VEC2_NAMES if name == 'wav2vec2' else None


def loaded(name, make, arrays):
  model = make(rngs=nnx.Rngs(0))
  wn.torch.load_state_dict(model, arrays, rename=rename_of(name))
  return model


def step(name, model, x):
  """Takes one step as in torch_references.py; returns the output before it."""

  def loss_of(model, x):
    y = run(name, model, x)
    return jnp.mean((y - jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)) ** 2), y

  @nnx.jit
  def update(model, x):
    (_, y), gradients = nnx.value_and_grad(loss_of, has_aux=True)(model, x)
    tx = optax.adam(1e-3) if name in ADAM else optax.sgd(0.1)
    nnx.Optimizer(model, tx, wrt=nnx.Param).update(model, gradients)
    return y

  return update(model, x)


def largest_difference(a, b):
  return max(
    float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize('reference', SOURCES)
@pytest.mark.parametrize('case', MODELS)
def test_outputs_and_a_training_step_are_those_of_pytorch(case, reference):
  name = case.split('/')[0]
  reference = reference(name)
  model = loaded(name, MODELS[case], part(reference, 'state/'))
  theirs = nnx.clone(model)
  before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  output_error = largest_difference(step(name, model, reference['input']), reference['output'])
  assert output_error < 1e-5

  after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  wn.torch.load_state_dict(theirs, part(reference, 'after/'), rename=rename_of(name))
  step_error = largest_difference(after, nnx.to_pure_dict(nnx.state(theirs, nnx.Param)))
  step_size = largest_difference(before, after)
  assert step_error < 1e-4
  assert step_size > 5e-4
  print(f'{case}: output {output_error:.1e}, step {step_error:.1e} of {step_size:.1e}')


@pytest.mark.parametrize('case', OTHER_AXES)
def test_other_axes_and_plain_layers_have_the_same_function(case):
  reference = stored(case)
  model = loaded(case, OTHER_AXES[case], part(reference, 'state/'))
  run_ = nnx.jit(functools.partial(run, case))
  assert largest_difference(run_(model, reference['input']), reference['output']) < 1e-5
  again = loaded(case, MODELS[case], wn.torch.state_dict(model, style='parametrizations'))
  assert largest_difference(run_(again, reference['input']), reference['output']) < 1e-5


def style_of(arrays):
  return 'parametrizations' if any('parametrizations' in key for key in arrays) else 'weight_norm'


@pytest.mark.parametrize('case', MODELS)
def test_round_trip_is_exact(case):
  name = case.split('/')[0]
  arrays = part(stored(name), 'state/')
  model = loaded(name, MODELS[case], arrays)
  result = wn.torch.state_dict(model, style=style_of(arrays), rename=rename_of(name))
  assert {k: v.shape for k, v in result.items()} == {k: v.shape for k, v in arrays.items()}
  assert all(v.flags.c_contiguous and v.flags.writeable for v in result.values())
  has_one_bias = 'rnn.bias_hh_l0' in arrays and name != 'gru_two_biases'
  if has_one_bias:
    for either in (arrays, result):
      either['rnn.bias_ih_l0'] = either['rnn.bias_ih_l0'] + either.pop('rnn.bias_hh_l0')
  for key, value in arrays.items():
    np.testing.assert_array_equal(result[key], value, key)


@pytest.mark.parametrize('style', ['weight_norm', 'parametrizations'])
@pytest.mark.parametrize('case', MODELS)
def test_pytorch_loads_a_trained_model(case, style):
  references = torch_references()
  import torch

  name = case.split('/')[0]
  torch_model, x = references.create(name)
  arrays = part(stored(name), 'state/')
  if style_of(arrays) != style and any(k.endswith(('_g', 'original0')) for k in arrays):
    pytest.skip('the PyTorch model has the other style')
  model = loaded(name, MODELS[case], arrays)
  step(name, model, x.numpy())
  arrays = wn.torch.state_dict(model, style=style, rename=rename_of(name))
  torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=True)
  y = torch_model(x).detach().numpy()
  assert largest_difference(run(name, model, x.numpy()), y) < 1e-5
