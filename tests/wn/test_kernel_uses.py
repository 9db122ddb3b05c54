"""Models that read or set the kernels of their layers, which `wn.unfold` finds in their code."""

import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

import wn
from tests.wn.test_conversion import close, kinds, linear, random
from tests.wn.test_conversion_limits import left_alone


class Sets(nnx.Module):
  """Gives its layer a kernel that another one computes."""

  def __init__(self):
    self.hyper, self.out = nnx.Linear(4, 16, rngs=nnx.Rngs(0)), linear()

  def __call__(self, x):
    self.out.kernel = nnx.Param(self.hyper(jnp.ones(4)).reshape(4, 4))
    return self.out(x)


class This(nnx.Module):
  def __init__(this):
    this.a, this.b = linear(), linear()

  def __call__(this, x):
    return (lambda y: y @ this.a.kernel[...].T)(this.b(x))

  @staticmethod
  def penalty(a):
    return (a.kernel[...] ** 2).sum()


class Unready(nnx.Module):
  def __init__(self):
    self.a = linear()

  @property
  def decoder(self):
    raise RuntimeError('call build() first')

  def penalty(self):
    return (self.decoder.kernel[...] ** 2).sum()

  def __call__(self, x):
    return self.a(x)


def test_a_layer_whose_kernel_the_model_sets_is_left_alone():
  model, x = Sets(), random(3, 4)
  unfolded = left_alone(model, r'out \(Sets.__call__ sets its kernel\)')
  assert kinds(unfolded) == {'hyper'}
  close(unfolded(x), model(x))


def test_the_first_argument_of_a_method_may_have_any_name():
  model, x = This(), random(3, 4)
  with pytest.warns(UserWarning, match=r'This\.penalty may read or set'):
    unfolded = left_alone(model, r'a \(This.__call__ reads its kernel: .*\)')
  assert kinds(unfolded) == {'b'}
  close(unfolded(x), model(x))


class Typed(nnx.Module):
  """The instruction after the kernel names a variable, not an attribute of the kernel."""

  def __init__(self):
    self.a, self.b, self.c = linear(), linear(), linear()

  def __call__(self, x, dtype=jnp.float32, size=0):
    self.b.kernel = nnx.Param(jnp.eye(4))
    size += 1
    return jnp.asarray(self.a.kernel, dtype) @ self.b(self.c(x)).T * size


@dataclasses.dataclass
class Made(nnx.Module):
  layer: nnx.Linear

  def __post_init__(self):
    self.layer.kernel = nnx.Param(jnp.eye(4))

  def freeze(self):
    del self.layer.kernel

  def __call__(self, x):
    return self.layer(x)


def test_what_follows_the_kernel_is_its_attribute():
  assert kinds(left_alone(Typed(), r'a \(.* reads its kernel: .*\); b \(.* sets its kernel\)')) == {
    'c'
  }


def test_constructors_may_set_kernels_and_methods_delete_them():
  unfolded = wn.unfold(Made(linear()))
  assert kinds(unfolded) == {'layer'}


def test_properties_that_raise_are_left_to_the_model():
  assert kinds(wn.unfold(Unready())) == {'a'}
