"""Layers that `wn.unfold` cannot convert rightly: left alone, with a warning that says why."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from tests.wn.test_conversion import Holder, close, kinds, linear, random


def left_alone(model, reasons):
  """The unfolded model, after checks that the warning is the expected one."""
  with pytest.warns(UserWarning, match=rf'left as they are: {reasons}$'):
    return wn.unfold(model)


# Attributes of the user's that a weight-normalized layer has, too.


class Gained(nnx.Linear):
  """Without a forward pass of its own: the model multiplies by the gain."""

  def __init__(self, name, value):
    super().__init__(4, 4, rngs=nnx.Rngs(0))
    setattr(self, name, value)


class Scaled(nnx.Linear):
  def __init__(self):
    super().__init__(4, 4, rngs=nnx.Rngs(0))
    self.scale = nnx.Param(jnp.full((), 3.0))

  def __call__(self, x):
    return super().__call__(x) * self.scale[...]


class NormalizedScaled(Scaled, wn.Linear):
  pass


wn.register(Scaled, NormalizedScaled)


class Asymmetric(nnx.Linear):
  unit_axis = 'mine'

  def get_scale(self):
    return 3.0


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('scale', nnx.Param(jnp.full(4, 3.0))),
    ('scale', 3.0),
    ('unit_axis', 0),
    ('log_scale', True),
    ('set_weight', None),
  ],
  ids=str,
)
def test_layer_with_an_attribute_of_the_same_name_is_left_alone(name, value):
  model = Holder(a=Gained(name, value), b=linear())
  unfolded = left_alone(model, rf'a \(has an attribute `{name}` of its own\)')
  assert kinds(unfolded) == {'b'}
  assert nnx.graphdef(unfolded.a) == nnx.graphdef(model.a)
  np.testing.assert_array_equal(getattr(unfolded.a, name), getattr(model.a, name))


def test_registered_class_with_a_scale_of_its_own_is_left_alone():
  model, x = Scaled(), random(3, 4)
  unfolded = left_alone(model, r'the model \(Scaled\) \(has an attribute `scale` of its own\)')
  close(unfolded(x), model(x))


def test_attributes_and_methods_of_the_class_count():
  model = Holder(a=Asymmetric(4, 4, rngs=nnx.Rngs(0)))
  assert not kinds(left_alone(model, r'a \(has an attribute `\w+` of its own\)'))


@pytest.mark.parametrize(
  'layer',
  [
    linear(),
    nnx.LinearGeneral(4, 4, rngs=nnx.Rngs(0)),
    nnx.Einsum('bi,io->bo', (4, 4), rngs=nnx.Rngs(0)),
  ],
  ids=lambda layer: type(layer).__name__,
)
def test_mask_that_the_layer_does_not_apply_is_not_applied(layer):
  layer.mask = nnx.data(jnp.zeros((4, 4)))
  model, x = Holder(a=layer), random(3, 4)
  unfolded = left_alone(model, r'a \(has an attribute `mask` of its own\)')
  close(unfolded.a(x), layer(x))


class MaskedDense(nnx.Linear):
  """Applies a mask of its own, as `wn.Linear` does."""

  def __init__(self, mask):
    nnx.Linear.__init__(self, 4, 4, rngs=nnx.Rngs(0))
    self.mask = nnx.data(mask)

  def __call__(self, x):
    return x @ (self.kernel[...] * self.mask)


class NormalizedMaskedDense(wn.Linear):
  pass


wn.register(MaskedDense, NormalizedMaskedDense)


class MaskedByMethod(nnx.Linear):
  """Applies it in another method."""

  __init__ = MaskedDense.__init__

  def masked(self):
    return self.kernel[...] * self.mask

  def __call__(self, x):
    return x @ self.masked()


class NormalizedMaskedByMethod(wn.Linear):
  pass


wn.register(MaskedByMethod, NormalizedMaskedByMethod)


@pytest.mark.parametrize(
  ('cls', 'normalized'),
  [(MaskedDense, NormalizedMaskedDense), (MaskedByMethod, NormalizedMaskedByMethod)],
)
def test_registered_class_that_applies_its_mask_is_converted(cls, normalized):
  model, x = cls(jnp.tril(jnp.ones((4, 4)))), random(3, 4)
  unfolded = wn.unfold(model)
  assert type(unfolded) is normalized
  close(unfolded(x), model(x))
  folded = wn.fold(unfolded)
  assert nnx.graphdef(folded) == nnx.graphdef(model)
  close(folded(x), model(x))


# Layers that the constructors of wn refuse.


def test_einsum_that_does_not_name_the_axes_of_its_kernel_is_left_alone():
  einsum = nnx.Einsum('...i,...io->...o', (4, 3), rngs=nnx.Rngs(0))
  model, x = nnx.Sequential(linear(), einsum), random(3, 4)
  unfolded = left_alone(
    model, r"layers\.1 \(the kernel of einsum_str='.*' must name all its axes\)"
  )
  assert kinds(unfolded) == {'layers.0'}
  close(unfolded(x), model(x))
  unfolded = wn.unfold(model, unit_axis=-1)
  assert kinds(unfolded) == {'layers.0', 'layers.1'}
  close(unfolded(x), model(x))


@pytest.mark.parametrize('unit_axis', ['output', -1])
@pytest.mark.parametrize('cls', [nnx.Conv, nnx.ConvTranspose])
def test_convolution_with_weights_in_its_mask_is_left_alone(cls, unit_axis):
  soft = cls(4, 4, (3,), mask=jnp.full((3, 4, 4), 0.5), rngs=nnx.Rngs(0))
  model, x = nnx.Sequential(soft, linear()), random(2, 5, 4)
  with pytest.warns(UserWarning, match=r'layers\.0 \(mask must hold only 0 .* and 1 .*\)$'):
    unfolded = wn.unfold(model, unit_axis=unit_axis)
  assert kinds(unfolded) == {'layers.1'}
  close(unfolded(x), model(x))


# Classes that are no pytrees: https://flax.readthedocs.io/en/latest/guides/pytree.html


class NoPytree(nnx.Linear, pytree=False):
  """Without a forward pass of its own; only with `pytree=False` may it have a list of arrays."""

  def __init__(self):
    super().__init__(4, 4, rngs=nnx.Rngs(0))
    self.history = [jnp.zeros(2)]


class NormalizedNoPytree(wn.Linear, pytree=False):
  pass


def test_a_class_that_is_no_pytree_keeps_its_parameters():
  model, x = Holder(a=NoPytree()), random(3, 4)
  unfolded = wn.unfold(model)
  assert isinstance(unfolded.a, NoPytree) and kinds(unfolded) == {'a'}
  names = {'a.kernel', 'a.bias', 'a.scale'}
  assert parameters(unfolded) == names == parameters(nnx.merge(*nnx.split(unfolded)))
  close(unfolded.a(x), model.a(x))
  wn.data_dependent_init(unfolded.a, x)
  assert parameters(unfolded) == names
  folded = wn.fold(unfolded)
  assert type(folded.a) is NoPytree and parameters(folded) == {'a.kernel', 'a.bias'}
  close(folded.a(x), unfolded.a(x))


def test_a_normalized_class_that_is_no_pytree_is_not_folded_to_one_that_is():
  with pytest.raises(TypeError, match=r'NormalizedNoPytree is no pytree, and Linear is one'):
    wn.fold(Holder(a=NormalizedNoPytree(4, 4, rngs=nnx.Rngs(0))))
  with pytest.raises(TypeError, match='pytree=False'):
    wn.register(NoPytree, type('Normalized', (NoPytree, wn.Linear), {}))


def parameters(model):
  return {'.'.join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}


class Hooked(nnx.Linear):
  """As classes that keep a list of their subclasses."""

  def __init_subclass__(cls):
    super().__init_subclass__()


class Derived(Hooked):
  pass


def test_classes_may_ask_to_be_told_of_subclasses():
  model, x = Holder(a=Derived(4, 4, rngs=nnx.Rngs(0))), random(3, 4)
  unfolded = wn.unfold(model)
  close(unfolded.a(x), model.a(x))
  wn.data_dependent_init(unfolded.a, x)
  wn.data_dependent_init(model.a, x)
