"""`wn.linen.fold` and `unfold` of kernels that `nn.scan` and `nn.vmap` stack."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import wn.linen
from tests.wn.comparisons import assert_close, random
from tests.wn.linen.models import Block, shapes, trained

SIZE = 4  # of the features and of the stacks, so that shapes do not tell the axes apart


def scanned(axis, target=Block):
  return nn.scan(target, variable_axes={'params': axis}, split_rngs={'params': True}, length=SIZE)


def mapped(axis, target=Block):
  return nn.vmap(
    target,
    variable_axes={'params': axis},
    split_rngs={'params': True},
    axis_size=SIZE,
    in_axes=None,
  )


def broadcast():
  return nn.scan(Block, variable_broadcast='params', split_rngs={'params': False}, length=SIZE)


class Outer(nn.Module):
  """A stack of stacks."""

  library: Any
  axis: int

  @nn.compact
  def __call__(self, x, _=None):
    return scanned(self.axis)(self.library)(x, None)


class Tied(nn.Module):
  """Reads the kernel of a layer of its own."""

  library: Any

  @nn.compact
  def __call__(self, x, _=None):
    layer = self.library.Dense(SIZE)
    y = layer(layer(x))  # used twice
    return y @ layer.variables['params']['kernel'], None


FIRST = {
  'scan': lambda library: scanned(0)(library),
  'vmap': lambda library: mapped(0)(library),
  'scan in scan': lambda library: scanned(0, Outer)(library, 0),
  'second axis of a stack': lambda library: scanned(1, Outer)(library, 0),
  'broadcast': lambda library: broadcast()(library),
  'remat': lambda library: scanned(0, nn.remat(Block))(library),
}


@pytest.mark.parametrize('make', FIRST.values(), ids=FIRST)
def test_stacks_along_the_first_axes(make):
  x = random(SIZE, SIZE)
  model, plain_model = make(wn.linen), make(nn)
  variables = trained(model, x, None)
  plain = wn.linen.fold(model, variables, x, None)
  assert shapes(plain) == shapes(trained(plain_model, x, None))
  y = model.apply(variables, x, None)[0]
  assert_close(plain_model.apply(plain, x, None)[0], y, 1e-5)
  unfolded = wn.linen.unfold(model, plain, x, None)
  assert shapes(unfolded) == shapes(variables)
  assert_close(model.apply(unfolded, x, None)[0], y, 1e-5)


OTHERS = {
  'scan': lambda library: scanned(1)(library),
  'vmap': lambda library: mapped(1)(library),
  'last axis': lambda library: scanned(-1)(library),
  'axis -2': lambda library: scanned(-2)(library),
  'scan in scan': lambda library: scanned(0, Outer)(library, 1),
}


@pytest.mark.parametrize('make', OTHERS.values(), ids=OTHERS)
def test_stacks_along_another_axis_are_an_error(make):
  x = random(SIZE, SIZE)
  model, plain_model = make(wn.linen), make(nn)
  match = r'Dense_0: .*stack.* along another axis than the first'
  with pytest.raises(ValueError, match=match):
    wn.linen.fold(model, trained(model, x, None), x, None)
  with pytest.raises(ValueError, match=match):
    wn.linen.unfold(model, trained(plain_model, x, None), x, None)


def test_the_model_sees_its_own_parameters_in_the_trace():
  x = random(SIZE, SIZE)
  model = scanned(0, Tied)(wn.linen)
  variables = trained(model, x, None)
  plain = wn.linen.fold(model, variables, x, None)
  assert shapes(plain) == shapes(trained(scanned(0, Tied)(nn), x, None))


class Penalized(nn.Module):
  """Reads all of its parameters in the forward pass."""

  library: Any

  @nn.compact
  def __call__(self, x):
    y = self.library.Dense(SIZE)(x)
    return y, sum((p**2).sum() for p in self.variables['params']['Dense_0'].values())


def test_the_model_sees_the_scales_in_the_trace():
  model, x = Penalized(wn.linen), random(3, SIZE)
  variables = trained(model, x)
  plain = wn.linen.fold(model, variables, x)
  assert shapes(plain) == shapes(trained(Penalized(nn), x))
  assert shapes(wn.linen.unfold(model, plain, x)) == shapes(variables)


def test_stacks_that_jax_makes_of_variables():
  model, x = wn.linen.Dense(SIZE), random(5, SIZE)
  variables = jax.vmap(lambda key: model.init(key, x))(jax.random.split(jax.random.key(0), SIZE))
  variables['params']['scale'] *= random(SIZE, SIZE)
  plain = wn.linen.fold(model, variables, x)
  y = jax.vmap(model.apply, (0, None))(variables, x)
  np.testing.assert_allclose(
    jax.vmap(nn.Dense(SIZE).apply, (0, None))(plain, x), y, rtol=1e-5, atol=1e-4
  )
