"""What `wn.register` refuses, and classes whose methods name their parent: these would read v."""

import jax.numpy as jnp
import pytest
from flax import nnx

import wn
from tests.wn.comparisons import assert_close


class Doubled(nnx.Linear):
  def __call__(self, x):
    return 2 * super().__call__(x)


class Causal(nnx.Conv):
  def __call__(self, x):
    return super().__call__(jnp.pad(x, ((0, 0), (1, 0), (0, 0))))


class Explicit(nnx.Conv):
  def __call__(self, x):
    return nnx.Conv.__call__(self, jnp.pad(x, ((0, 0), (1, 0), (0, 0))))


class OfItsOwn(nnx.Linear):
  def __call__(self, x):
    return x @ self.kernel[...]


def test_a_class_of_the_library_keeps_its_counterpart():
  with pytest.raises(TypeError, match=r'normalized must be a class of your own; got .*wn.*Linear'):
    wn.register(Doubled, wn.Linear)
  with pytest.raises(TypeError, match=r'plain must be a class of your own; got .*Linear'):
    wn.register(nnx.Linear, type('Mine', (wn.Linear,), {}))
  layer = wn.fold(wn.Linear(2, 3, rngs=nnx.Rngs(0)))
  assert type(layer) is nnx.Linear


def test_a_class_has_one_counterpart():
  class Plain(nnx.Linear):
    pass

  class Other(nnx.Linear):
    pass

  class Normalized(Plain, wn.Linear):
    pass

  wn.register(Plain, Normalized)
  wn.register(Plain, Normalized)  # as when a module is loaded again
  with pytest.raises(TypeError, match=r'Normalized.* is the counterpart of .*Plain.* already'):
    wn.register(Other, Normalized)


def test_the_forward_pass_is_that_of_the_plain_class():
  class Reversed(wn.Conv, Causal):
    pass

  with pytest.raises(
    TypeError, match=r'name .*Causal.* before .*Conv.* among the bases of .*Reversed'
  ):
    wn.register(Causal, Reversed)


@pytest.mark.parametrize('plain, layer', [(Explicit, wn.Conv), (OfItsOwn, wn.Linear)])
def test_a_forward_pass_without_super_would_read_v(plain, layer):
  normalized = type('Normalized', (plain, layer), {})
  with pytest.raises(TypeError, match=r'so that .* would compute with v'):
    wn.register(plain, normalized)


def test_a_forward_pass_without_super_is_replaced_in_the_normalized_class():
  class Normalized(OfItsOwn, wn.Linear):
    def __call__(self, x):
      return x @ wn.weight(self)

  wn.register(OfItsOwn, Normalized)
  layer = OfItsOwn(2, 3, rngs=nnx.Rngs(0))
  normalized = wn.unfold(layer)
  assert type(normalized) is Normalized and type(wn.fold(normalized)) is OfItsOwn
  x = jnp.arange(8.0).reshape(4, 2)
  assert_close(normalized(x), layer(x))


class Logits(nnx.Linear):
  def logits(self, x):
    return nnx.Linear.__call__(self, x)


class Attending(nnx.Embed):
  def attend(self, query):
    return nnx.Embed.attend(self, 2 * query)


@pytest.mark.parametrize('cls', [Logits, Attending])
def test_a_class_with_a_method_that_names_its_parent_is_left_alone(cls):
  layer = cls(4, 3, rngs=nnx.Rngs(0))
  with pytest.warns(UserWarning, match=f'{cls.__name__} may have its own forward pass'):
    assert type(wn.unfold(layer)) is cls


class Tied(nnx.Embed):
  def attend(self, query):
    return super().attend(2 * query)

  def logits(self, query):
    return self.attend(query)


def test_a_class_that_uses_super_is_converted():
  layer = Tied(4, 3, rngs=nnx.Rngs(0))
  normalized = wn.unfold(layer)
  assert isinstance(normalized, wn.Embed)
  normalized.set_scale(3 * normalized.get_scale())
  query = jnp.ones((2, 3))
  assert_close(normalized.logits(query), 3 * layer.logits(query))
  assert_close(wn.fold(normalized).logits(query), 3 * layer.logits(query))


def test_facts_of_the_kernel_may_be_read():
  class Cast(nnx.Linear):
    def __call__(self, x):
      assert x.shape[-1] == self.kernel.shape[0]
      return super().__call__(x.astype(self.kernel.dtype))

  class NormalizedCast(Cast, wn.Linear):
    pass

  wn.register(Cast, NormalizedCast)
  assert type(wn.unfold(Cast(2, 3, rngs=nnx.Rngs(0)))) is NormalizedCast


def test_a_forward_pass_of_the_normalized_class_may_be_anywhere():
  class Normalized(wn.Conv, Causal):
    def __call__(self, x):
      return wn.Conv.__call__(self, jnp.pad(x, ((0, 0), (1, 0), (0, 0))))

  wn.register(Causal, Normalized)


def test_a_class_may_be_defined_again():
  def define():
    class Again(nnx.Linear):
      pass

    return Again

  first, second = define(), define()
  normalized = type('Normalized', (first, wn.Linear), {})
  wn.register(first, normalized)
  wn.register(second, normalized)


class ByMethod(nnx.Linear):
  def w(self):
    return self.kernel[...]

  def __call__(self, x):
    return x @ self.w()


class Inherited(OfItsOwn):
  pass


@pytest.mark.parametrize('plain', [ByMethod, Inherited])
def test_v_may_be_read_by_another_method_or_class(plain):
  with pytest.raises(TypeError, match=r'so that .* would compute with v'):
    wn.register(plain, type('Normalized', (plain, wn.Linear), {}))


def test_a_method_that_calls_the_forward_pass_does_not_change_it():
  class Applied(nnx.Linear):
    def apply(self, x, other):
      return other.__call__(self.__call__(x))

  class NormalizedApplied(wn.Linear):
    apply = Applied.apply

  assert isinstance(wn.unfold(Applied(2, 2, rngs=nnx.Rngs(0))), wn.Linear)
  assert type(wn.fold(NormalizedApplied(2, 2, rngs=nnx.Rngs(0)))) is nnx.Linear


def test_an_embedding_with_its_own_products_does_not_fold():
  class Doubling(wn.Embed):
    def attend(self, query):
      return super().attend(2 * query)

  with pytest.raises(TypeError, match='Doubling is a subclass of a wn layer with its own forward'):
    wn.fold(Doubling(4, 3, rngs=nnx.Rngs(0)))
