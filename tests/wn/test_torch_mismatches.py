"""What `wn.torch` refuses, renames, shares or leaves out; dtypes and several biases."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.test_torch import largest_difference


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Net(nnx.Module):
  def __init__(self, rngs):
    self.conv = wn.Conv(2, 3, 5, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), wn.Linear(4, 1, rngs=rngs)])
    self.token = nnx.Param(jnp.zeros((1, 3)))


def net_arrays():
  return {
    'conv.weight_g': random(3, 1, 1),
    'conv.weight_v': random(3, 2, 5),
    'conv.bias': random(3),
    'layers.0.weight': random(4, 3),
    'layers.0.bias': random(4),
    'layers.1.parametrizations.weight.original0': random(1, 1),
    'layers.1.parametrizations.weight.original1': random(1, 4),
    'layers.1.bias': random(1),
    'token': random(1, 3),
  }


def values(model):
  return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def problems_of(model, arrays, rename=None):
  """The lines of the error, once it is sure that nothing was written."""
  before = values(model)
  with pytest.raises(ValueError, match='nothing was written') as error:
    wn.torch.load_state_dict(model, arrays, rename=rename)
  assert largest_difference(before, values(model)) == 0
  lines = str(error.value).splitlines()
  assert 'rename={' in lines[-1]
  return [line.strip() for line in lines[1:-1]]


def test_all_problems_are_in_one_error():
  arrays = net_arrays()
  del arrays['conv.weight_g'], arrays['layers.0.bias'], arrays['token']
  arrays['conv.weight_v'] = random(3, 2, 4)
  arrays['layers.1.bias'] = random(2)
  arrays['layers.1.weight'] = random(1, 4)
  arrays['head.weight'] = random(7)
  arrays['layers.0.weight'][0, :2] = np.nan, np.inf
  assert sorted(problems_of(Net(nnx.Rngs(0)), arrays)) == [
    'conv.weight_g: missing; Conv conv.scale (3,) needs (3, 1, 1)',
    'conv.weight_v: has shape (3, 2, 4); Conv conv.kernel (5, 2, 3) needs (3, 2, 5)',
    "head.weight: unexpected, shape (7,); the model has no module at 'head'",
    'layers.0.bias: missing; layers.0.bias (4,) needs (4,)',
    'layers.0.weight: 2 of 12 values, for layers.0, are not finite',
    'layers.1.bias: has shape (2,); layers.1.bias (1,) needs (1,)',
    "layers.1.weight: unexpected, shape (1, 4); Linear at 'layers.1' of the model has no place for "
    'it',
    'token: missing; token (1, 3) needs (1, 3)',
  ]


@pytest.mark.parametrize('shape', [(2, 1, 1), (3, 1), (1, 3, 1), (1, 2, 1), ()])
def test_the_shape_of_g(shape):
  arrays = net_arrays() | {'conv.weight_g': random(*shape)}
  model = Net(nnx.Rngs(0))
  if shape in [(1, 2, 1), ()]:
    wn.torch.load_state_dict(model, arrays)
  else:
    assert problems_of(model, arrays) == [
      f'conv.weight_g: has shape {shape}; Conv conv.scale (3,) needs (3, 1, 1)'
    ]


def test_renaming_modules():
  expected, model = Net(nnx.Rngs(0)), Net(nnx.Rngs(1))
  arrays = net_arrays()
  wn.torch.load_state_dict(expected, arrays)
  renamed = {
    f'gen.{key}'.replace('gen.layers', 'gen.net').replace('gen.net.1', 'out'): value
    for key, value in arrays.items()
  }
  renamed['discriminator.conv.weight'] = random(2)
  names = {'gen': '', 'gen.net': 'layers', 'out': 'layers.1', 'discriminator': None}
  wn.torch.load_state_dict(model, renamed, rename=names)
  assert largest_difference(values(model), values(expected)) == 0
  written = wn.torch.state_dict(model, rename=names)
  assert {'gen.token', 'gen.conv.weight_g', 'gen.net.0.weight', 'out.weight_v'} <= written.keys()

  model = Net(nnx.Rngs(1))
  longest_first = sorted(names, key=len, reverse=True)

  def function(module):
    prefix = next(name for name in longest_first if f'{module}.'.startswith(f'{name}.'))
    to = names[prefix]
    return to if to is None else (to + module[len(prefix) :]).strip('.')

  wn.torch.load_state_dict(model, renamed, rename=function)
  assert largest_difference(values(model), values(expected)) == 0
  assert 'top.conv.bias' in wn.torch.state_dict(model, rename=lambda path: f'top.{path}'.strip('.'))


def test_wrong_names():
  arrays = net_arrays()
  assert problems_of(Net(nnx.Rngs(0)), arrays, {'convs': 'conv'}) == [
    "rename: the state dict has no module 'convs'"
  ]
  arrays['again.bias'] = random(3)
  assert problems_of(Net(nnx.Rngs(0)), arrays, {'again': 'conv'})[0].startswith(
    'again.bias: also for conv, like conv.bias'
  )
  with pytest.raises(ValueError, match='two modules get the key bias'):
    wn.torch.state_dict(Net(nnx.Rngs(0)), rename=lambda path: '')
  with pytest.raises(ValueError, match="style must be 'weight_norm' or 'parametrizations'"):
    wn.torch.state_dict(Net(nnx.Rngs(0)), style='old')


def test_a_checkpoint_that_holds_the_state_dict():
  lines = problems_of(wn.Linear(1, 1, rngs=nnx.Rngs(0)), {'generator': net_arrays(), 'steps': 'x'})
  assert lines[0] == 'generator: a dict; pass the state dict that holds arrays'
  assert lines[1] == 'steps: a str; pass the state dict that holds arrays'


@pytest.mark.parametrize('cls', [nnx.ConvTranspose, wn.ConvTranspose])
def test_transposed_convolutions_with_groups(cls):
  model = cls(4, 6, 3, rngs=nnx.Rngs(0))
  lines = problems_of(model, {'weight': random(4, 3, 3), 'bias': random(6)})
  assert 'nnx.ConvTranspose has no groups' in lines[0]
  assert 'has shape (4, 3, 3)' in lines[1]


def test_a_second_bias_in_a_gru():
  model = wn.GRUCell(2, 3, rngs=nnx.Rngs(0))
  arrays = wn.torch.state_dict(model)
  assert set(arrays) == {
    *(f'weight_{i}_{j}' for i in ('ih', 'hh') for j in 'gv'),
    'bias_ih',
    'bias_hh',
  }
  arrays['bias_hh'][:6] = 1
  wn.torch.load_state_dict(model, arrays)
  np.testing.assert_array_equal(model.dense_i.bias[...], [1, 1, 1, 1, 1, 1, 0, 0, 0])
  arrays['bias_hh'][7] = 0.25
  (line,) = problems_of(model, arrays)
  assert line.startswith('bias_hh: the GRU of the model has no place for the second bias')
  assert '0.25' in line and 'cell.dense_h = wn.Linear(3, 9, rngs=rngs)' in line


def test_a_cell_takes_the_keys_of_an_lstm_and_an_rnn_those_of_a_cell():
  cell, rnn = wn.LSTMCell(2, 3, rngs=nnx.Rngs(0)), nnx.RNN(wn.LSTMCell(2, 3, rngs=nnx.Rngs(1)))
  arrays = wn.torch.state_dict(cell, style='parametrizations')
  wn.torch.load_state_dict(rnn, arrays)
  assert set(wn.torch.state_dict(rnn)) >= {'weight_ih_l0_g', 'weight_hh_l0_v', 'bias_hh_l0'}
  wn.torch.load_state_dict(cell, wn.torch.state_dict(rnn))
  np.testing.assert_array_equal(
    wn.torch.state_dict(cell)['weight_ih_g'], arrays[next(iter(arrays))]
  )
  wn.torch.load_state_dict(
    nnx.Dict(rnn=rnn), {f'lstm.{k}': v for k, v in arrays.items()}, rename={'lstm': 'rnn.cell'}
  )


def test_an_lstm_of_two_layers():
  rnn = nnx.RNN(nnx.LSTMCell(2, 3, rngs=nnx.Rngs(0)))
  arrays = wn.torch.state_dict(rnn) | {'weight_ih_l1': random(12, 3)}
  (line,) = problems_of(rnn, arrays)
  assert line.startswith('weight_ih_l1: unexpected') and 'one layer in one direction' in line


# Shared parameters, other modules.


def test_axes_of_size_1_do_not_matter():
  model = wn.Linear(3, 1, unit_axis=None, rngs=nnx.Rngs(0))
  arrays = {'weight_g': random(1, 1), 'weight_v': random(1, 3), 'bias': random(1)}
  wn.torch.load_state_dict(model, arrays)
  np.testing.assert_array_equal(model.kernel[...].T, arrays['weight_v'])
  np.testing.assert_array_equal(model.scale[...], arrays['weight_g'][0, 0])


def test_shared_parameters_need_one_value():
  layers = nnx.List([wn.Linear(3, 3, rngs=nnx.Rngs(i)) for i in range(2)])
  layers[1].kernel = layers[0].kernel
  arrays = wn.torch.state_dict(layers)
  wn.torch.load_state_dict(layers, arrays)
  arrays['1.weight_v'] = random(3, 3)
  assert problems_of(layers, arrays) == [
    'a parameter (3, 3) that modules of the model share would get two values'
  ]


def test_shared_modules_have_all_their_names():
  layer, token = wn.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Param(jnp.zeros(2))
  model = nnx.Dict(a=layer, b=nnx.List([layer]), c=token, d=token)
  model.b[0].parent = model  # a cycle
  arrays = wn.torch.state_dict(model)
  names = {f'{path}.{leaf}' for path in ('a', 'b.0') for leaf in ('weight_g', 'weight_v', 'bias')}
  assert set(arrays) == names | {'c', 'd'}
  for key in ('a.weight_g', 'b.0.weight_g'):
    arrays[key] = random(3, 1)
  wn.torch.load_state_dict(model, arrays)
  np.testing.assert_array_equal(layer.scale[...], random(3, 1)[:, 0])
  arrays['d'] = random(2)
  assert 'would get two values' in problems_of(model, arrays)[0]


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda rngs: wn.WeightNorm(nnx.Linear(2, 3, rngs=rngs), 'kernel'), 'a wn.WeightNorm'),
    (lambda rngs: nnx.WeightNorm(nnx.Linear(2, 3, rngs=rngs), rngs=rngs), 'a flax.WeightNorm'),
    (lambda rngs: stack_of_layers(rngs), 'a stack of layers'),
  ],
)
def test_modules_without_a_counterpart(make, message):
  model = nnx.List([make(nnx.Rngs(0))])
  for call in (wn.torch.state_dict, lambda model: wn.torch.load_state_dict(model, {})):
    with pytest.raises(TypeError, match=f'0 is {message}'):
      call(model)


def stack_of_layers(rngs):
  create = lambda rngs: wn.Linear(2, 3, rngs=rngs)
  return nnx.vmap(create, in_axes=0)(rngs.fork(split=2))


def test_a_parameter_that_is_no_array_is_named():
  model = Net(nnx.Rngs(0))
  model.token = nnx.Param({'a': jnp.ones(2)})
  for function in (wn.torch.state_dict, lambda m: wn.torch.load_state_dict(m, net_arrays())):
    with pytest.raises(TypeError, match='token is a Param of a dict, and no array'):
      function(model)


def test_batch_statistics_and_other_parameters():
  model = nnx.Dict(
    a=nnx.BatchNorm(3, use_scale=False, rngs=nnx.Rngs(0)),
    b=wn.MeanOnlyBatchNorm(3, rngs=nnx.Rngs(0)),
    c=wn.Einsum('bi,ij->bj', (3, 4), rngs=nnx.Rngs(0)),
  )
  arrays = wn.torch.state_dict(model)
  assert {key: value.shape for key, value in arrays.items()} == {
    'a.bias': (3,),
    'a.running_mean': (3,),
    'a.running_var': (3,),
    'a.num_batches_tracked': (),
    'b.bias': (3,),
    'b.running_mean': (3,),
    'c.weight_g': (1, 4),
    'c.weight_v': (3, 4),
  }
  arrays |= {key: random(*value.shape) for key, value in arrays.items() if 'num' not in key}
  wn.torch.load_state_dict(model, arrays)
  for key, value in wn.torch.state_dict(model).items():
    np.testing.assert_array_equal(value, arrays[key])


class Tensor:
  """What `load_state_dict` needs of a tensor in bfloat16."""

  dtype = 'torch.bfloat16'

  def __init__(self, array):
    self.array = array

  def detach(self):
    return self

  cpu = detach

  def float(self):
    tensor = Tensor(self.array.astype(np.float32))
    tensor.numpy = lambda: tensor.array
    return tensor


def test_bfloat16():
  array = np.asarray(random(4, 3), jnp.bfloat16)
  for weight in (Tensor(array), array):
    model = wn.Linear(3, 4, use_bias=False, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    wn.torch.load_state_dict(model, {'weight': weight})
    assert model.kernel[...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(model.kernel[...].T, array)
  result = wn.torch.state_dict(model)
  assert result['weight_v'].dtype == result['weight_g'].dtype == np.float32
  np.testing.assert_array_equal(result['weight_v'], array.astype(np.float32))


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16', 'float64'])
def test_tensors(dtype):
  torch = pytest.importorskip('torch')
  layer = torch.nn.Linear(3, 4, dtype=getattr(torch, dtype))
  model = wn.Linear(3, 4, rngs=nnx.Rngs(0))
  for parameters in (layer.state_dict(), dict(layer.named_parameters())):
    wn.torch.load_state_dict(model, parameters)
    weight = layer.weight.detach().float().numpy()
    np.testing.assert_array_equal(model.kernel[...].T, weight)


def test_importing_does_not_import_pytorch():
  code = 'import sys, wn.torch; assert "torch" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(__file__).parents[2])


def test_a_cell_with_some_biases_is_an_error():
  cell = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
  cell.ii = nnx.Linear(3, 4, rngs=nnx.Rngs(0))  # has a bias, unlike the other three
  with pytest.raises(TypeError, match='one or two biases for every unit'):
    wn.torch.state_dict(cell)
