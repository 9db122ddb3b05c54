"""What the tests of `wn.linen` share: networks, random variables, gradients."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
import wn.linen
from tests.wn import comparisons

for_each_library = pytest.mark.parametrize('library', [wn.linen, nn], ids=['wn', 'nn'])
assert_moments = functools.partial(comparisons.assert_moments, tolerance=2e-5)


def shapes(tree):
  return jax.tree.map(jnp.shape, tree)


def trained(model, *inputs, seed=7):
  """Variables with random parameters: scales are not ‖v‖, and some are negative."""
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), variables)


def gradients(layer, params, x, dy):
  loss = lambda params: jnp.sum(layer.apply({'params': params}, x) * dy)
  return jax.jit(jax.grad(loss))(params)


class Net(nn.Module):
  """A small conv net, with the layers of `nn` or `wn.linen`."""

  library: Any = wn.linen
  fields: Any = ()

  @nn.compact
  def __call__(self, x, record=False):
    lib, fields, relu = self.library, dict(self.fields), jax.nn.leaky_relu
    ts = [lib.Conv(4, (3, 3), **fields)(x)]
    ts.append(lib.Conv(4, (3, 3), 2, feature_group_count=2, **fields)(relu(ts[-1])))
    ts.append(lib.ConvTranspose(6, (3, 3), (2, 2), transpose_kernel=True, **fields)(relu(ts[-1])))
    x = relu(ts[-1])
    ts.append(lib.Dense(3, **fields)(x.reshape(len(x), -1)))
    return ts if record else ts[-1]


NET_LAYERS = ('Conv_0', 'Conv_1', 'ConvTranspose_0', 'Dense_0')


class NnxNet(nnx.Module):
  """`Net` for NNX."""

  def __init__(self, library, params, **fields):
    fields = fields | {'rngs': nnx.Rngs(0)}
    self.layers = nnx.List(
      [
        library.Conv(4, 4, (3, 3), **fields),
        library.Conv(4, 4, (3, 3), 2, feature_group_count=2, **fields),
        library.ConvTranspose(4, 6, (3, 3), (2, 2), transpose_kernel=True, **fields),
        library.Linear(6 * 36, 3, **fields),
      ]
    )
    for layer, name in zip(self.layers, NET_LAYERS):
      nnx.update(layer, params[name])

  def __call__(self, x):
    for layer in self.layers:
      if isinstance(layer, nnx.Linear):
        x = x.reshape(len(x), -1)
      t = layer(x)
      x = jax.nn.leaky_relu(t)
    return t


class Block(nn.Module):
  library: Any

  @nn.compact
  def __call__(self, x, _=None):
    return nn.tanh(self.library.Dense(4)(x)), None


class Lifted(nn.Module):
  """Layers inside the transforms of Flax: a stack, a recurrence, a checkpoint."""

  library: Any

  @nn.compact
  def __call__(self, x):
    stack = nn.scan(Block, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
    x, _ = stack(self.library, name='stack')(x, None)
    loop = nn.scan(Block, variable_broadcast='params', split_rngs={'params': False}, length=3)
    x, _ = loop(self.library, name='loop')(x, None)
    x, _ = nn.remat(Block)(self.library, name='remat')(x)
    return self.library.Dense(3, name='head')(x)


class AutoEncoder(nn.Module):
  """Two halves, of which a call may use one."""

  library: Any = wn.linen

  def setup(self):
    self.encoder = self.library.Dense(5)
    self.decoder = self.library.Dense(4)

  def encode(self, x):
    return self.encoder(x)

  def __call__(self, x):
    return self.decoder(nn.relu(self.encode(x)))
