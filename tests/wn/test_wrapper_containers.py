"""`wn.WeightNorm` in lists, tuples, dicts and `nnx.Pytree`, and around modules with these."""

import collections

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import wn
from tests.wn.test_conversion import Holder, close, linear, random

Pair = collections.namedtuple('Pair', ['first', 'second'])


class Registered:
  """A container that only JAX knows."""

  def __init__(self, layer):
    self.layer = layer


jax.tree_util.register_pytree_node(
  Registered, lambda node: ((node.layer,), None), lambda _, children: Registered(*children)
)


class Part(nnx.Pytree):
  def __init__(self, layer):
    self.layer = layer


CONTAINERS = {
  'list': (lambda layer: nnx.data([layer]), lambda part: part[0]),
  'dict': (lambda layer: nnx.data({'a': layer}), lambda part: part['a']),
  'tuple': (lambda layer: nnx.data((1, layer)), lambda part: part[1]),
  'namedtuple': (lambda layer: nnx.data(Pair(layer, 'b')), lambda part: part.first),
  'nested': (lambda layer: nnx.data([{'a': (layer,)}]), lambda part: part[0]['a'][0]),
  'Pytree': (Part, lambda part: part.layer),
  'tuple in Pytree': (lambda layer: Part(nnx.data((layer,))), lambda part: part.layer[0]),
  'pytree node': (lambda layer: nnx.data(Registered(layer)), lambda part: part.layer),
}
in_each_container = pytest.mark.parametrize(
  ('put', 'get'), CONTAINERS.values(), ids=list(CONTAINERS)
)


@in_each_container
def test_fold_unwraps_in_every_container_and_keeps_sharing(put, get):
  layer = wn.WeightNorm(linear(), 'kernel')
  layer.scales['kernel'][...] *= 2
  model = Holder(part=put(layer), layer=layer)
  folded, x = wn.fold(model), random(3, 4)
  assert type(folded.part) is type(model.part)
  assert type(get(folded.part)) is nnx.Linear
  assert get(folded.part) is folded.layer
  close(get(folded.part)(x), layer(x))
  assert get(model.part) is layer


class Alias(nnx.Module):
  """One layer under two names; calls it by the other."""

  def __init__(self, put, get):
    self.first = linear()
    self.part = put(self.first)
    self.get = get
    self.calls = 0

  def __call__(self, x):
    self.calls += 1
    return self.get(self.part)(x)


class Chain(nnx.Module):
  def __init__(self):
    self.first = linear()
    self.layers = nnx.data({'z': self.first, 'a': linear()})

  def __call__(self, x):
    return list(self.layers)


def test_wrapped_module_sees_dicts_in_their_order():
  assert wn.WeightNorm(Chain(), 'first.kernel')(None) == ['z', 'a']


@in_each_container
def test_wrapped_module_sees_the_weight_in_every_container(put, get):
  model, x = wn.WeightNorm(Alias(put, get), 'first.kernel'), random(3, 4)
  y = model(x)  # the bias is 0
  model.scales['first.kernel'][...] *= 2
  part = model.module.part
  close(model(x), 2 * y)
  assert model.module.part is part and get(part) is model.module.first
  assert model.module.calls == 2
  gradients = nnx.grad(lambda model: jnp.sum(model(x)))(model)
  assert (gradients.scales['first.kernel'][...] != 0).all()
  folded = wn.fold(model)
  assert get(folded.part) is folded.first
  close(folded(x), model(x))
