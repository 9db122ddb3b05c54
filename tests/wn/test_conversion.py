"""What `wn.fold` and `wn.unfold` convert, what they leave alone, and `wn.register`."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def close(actual, expected, tolerance=1e-5):
  np.testing.assert_allclose(
    np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=tolerance, atol=tolerance
  )


def linear(seed=0, n_in=4, n_out=4):
  return nnx.Linear(n_in, n_out, rngs=nnx.Rngs(seed))


def numbers(model):
  return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def descend(model, loss, rate=0.1):
  gradients = nnx.grad(loss)(model)
  update = lambda p, g: p - rate * g
  nnx.update(model, jax.tree.map(update, nnx.state(model, nnx.Param), gradients))
  return gradients


class Holder(nnx.Module):
  def __init__(self, **attributes):
    for name, value in attributes.items():
      setattr(self, name, value)


def kinds(model):
  """Names of the layers that are weight-normalized."""
  found = nnx.iter_modules(model)
  return {'.'.join(map(str, path)) for path, m in found if isinstance(m, wn.WeightNormed)}


# Left alone.


@pytest.mark.parametrize('cls', [nnx.SpectralNorm, nnx.WeightNorm])
@pytest.mark.parametrize('order', ['ab', 'ba'])
def test_layers_that_others_rewrite_are_left_alone(cls, order):
  """Also if the model has the layer itself under another name."""
  layer = linear()
  inner = cls(Holder2(layer), rngs=nnx.Rngs(1))
  model = Holder(**dict(zip(order, (layer, inner))), other=linear(2))
  x = random(3, 4)
  with pytest.warns(UserWarning, match=rf'left as they are: .*\(inside {cls.__name__}\)'):
    unfolded = wn.unfold(model)
  assert kinds(unfolded) == {'other'}
  call = lambda model: getattr(model, order[1])(x)
  close(call(unfolded), call(model))


class Holder2(nnx.Module):
  def __init__(self, layer):
    self.layer = layer

  def __call__(self, x, **kwargs):
    return self.layer(x)


class Tied(nnx.Module):
  """Autoencoder whose decoder is the transpose of its encoder."""

  def __init__(self):
    self.encoder = linear()
    self.hidden = linear(1)

  def __call__(self, x):
    return self.decode(self.hidden(self.encoder(x)))

  def decode(self, h):
    return h @ self.encoder.kernel[...].T


class TiedByWeight(Tied):
  def decode(self, h):
    return h @ wn.weight(self.encoder).T


def test_layer_whose_kernel_the_model_reads_is_left_alone():
  model, x = Tied(), random(3, 4)
  message = r'left as they are: encoder \(Tied.decode reads its kernel: use wn.weight'
  with pytest.warns(UserWarning, match=message):
    unfolded = wn.unfold(model)
  assert kinds(unfolded) == {'hidden'}
  close(unfolded(x), model(x))


def test_tied_layer_read_by_wn_weight_gets_the_gradient_of_both_uses():
  plain, x = TiedByWeight(), random(3, 4)
  model = wn.unfold(plain)
  assert kinds(model) == {'encoder', 'hidden'}
  close(model(x), plain(x))
  loss = lambda model: jnp.sum(model(x) ** 2)
  dw = np.asarray(nnx.grad(loss)(plain).encoder.kernel, np.float64)  # of both uses
  v = np.asarray(plain.encoder.kernel, np.float64)
  dg = np.sum(dw * v, 0) / np.linalg.norm(v, axis=0)
  close(descend(model, loss).encoder.scale, dg, 1e-4)
  close(wn.fold(model)(x), model(x))


class ReadsOfAll(nnx.Module):
  """Reads kernels of submodules in several ways."""

  def __init__(self):
    self.block = Holder2(linear())
    self.list = nnx.List([linear(), linear(1)])
    self.dict = nnx.Dict(a=linear(), b=linear(1))
    self.embed = nnx.Embed(3, 4, rngs=nnx.Rngs(0))
    self.cached = linear()
    self.free = linear()

  @functools.partial(nnx.jit, static_argnums=1)
  @nnx.remat
  def __call__(self, x):
    f = lambda x: x @ self.block.layer.kernel[...]
    return f(x) @ self.list[0].kernel + sum(self.dict['a'].kernel for _ in range(2))

  @property
  def table(self):
    return self.embed.embedding

  @functools.cached_property
  def cache(self):
    return self.cached.kernel[...] * 2


def test_reads_are_found_in_nested_modules_lists_decorated_methods_and_properties():
  with pytest.warns(UserWarning, match='ReadsOfAll.__call__ reads its kernel'):
    model = wn.unfold(ReadsOfAll())
  assert kinds(model) == {'list.1', 'dict.b', 'free'}


class ScalesItsKernel(nnx.Module):
  def __init__(self):
    self.layer = linear()
    self.layer.kernel[...] = 0.1 * self.layer.kernel[...]


def test_a_constructor_may_read_kernels():
  assert kinds(wn.unfold(ScalesItsKernel())) == {'layer'}


def test_layers_that_share_a_kernel_variable_are_left_alone():
  """Each would get a g of its own, and training would untie them."""
  first, second = linear(), linear(1)
  second.kernel = first.kernel
  model = Holder(a=first, b=second, c=linear(2))
  with pytest.warns(UserWarning, match=r'a \(shares its kernel with b\); b \(shares .* with a\)'):
    unfolded = wn.unfold(model)
  assert kinds(unfolded) == {'c'}
  assert unfolded.a.kernel is unfolded.b.kernel


def test_layer_under_two_names_stays_one():
  layer = linear()
  unfolded = wn.unfold(Holder(a=layer, b=layer, list=nnx.List([layer])))
  assert unfolded.a is unfolded.b is unfolded.list[0]
  folded = wn.fold(unfolded)
  assert folded.a is folded.b is folded.list[0]


def test_lora_normalizes_its_base_module_only():
  base = linear()
  model = Holder(
    lora=nnx.LoRA(4, 2, 4, base_module=base, rngs=nnx.Rngs(0)),
    layer=nnx.LoRALinear(4, 4, lora_rank=2, rngs=nnx.Rngs(0)),
  )
  with pytest.warns(UserWarning, match=r'layer \(LoRALinear may have its own forward pass'):
    unfolded = wn.unfold(model)
  x = random(3, 4)
  assert kinds(unfolded) == {'lora.base_module'}
  for name in ('lora', 'layer'):
    close(getattr(unfolded, name)(x), getattr(model, name)(x))


def test_the_given_model_is_not_changed():
  model = Tied()
  before, graphdef = numbers(model), nnx.graphdef(model)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    unfolded = wn.unfold(model)
  descend(unfolded, lambda model: jnp.sum(model(random(3, 4)) ** 2))
  descend(wn.fold(unfolded), lambda model: jnp.sum(model(random(3, 4)) ** 2))
  assert nnx.graphdef(model) == graphdef
  jax.tree.map(np.testing.assert_array_equal, numbers(model), before)


# Masks: MADE (Germain et al. 2015).


class Made(nnx.Module):
  """Two masked layers: output i depends on inputs before i."""

  def __init__(self):
    order_in, order_hidden = np.arange(4), np.arange(6) % 3
    into = jnp.asarray(order_in[:, None] <= order_hidden, jnp.float32)
    out = jnp.asarray(order_hidden[:, None] < order_in, jnp.float32)
    self.hidden = wn.Linear(4, 6, mask=into, rngs=nnx.Rngs(0))
    self.out = wn.Linear(6, 4, mask=out, rngs=nnx.Rngs(1))

  def __call__(self, x):
    return self.out(jnp.tanh(self.hidden(x)))


def assert_autoregressive(model):
  jacobian = np.asarray(jax.jacobian(lambda x: model(x))(random(4)))
  assert (jacobian[np.triu_indices(4)] == 0).all()
  assert (jacobian[np.tril_indices(4, -1)] != 0).all()


def test_masked_network_stays_autoregressive_from_fold_over_training_to_unfold():
  model = Made()
  folded = wn.fold(model)
  assert type(folded.hidden) is wn.MaskedLinear
  close(folded(random(3, 4)), model(random(3, 4)))
  loss = lambda model: jnp.mean((model(random(9, 4, seed=1)) - 1) ** 2)
  for _ in range(2):
    gradients = descend(folded, loss)
  assert not (np.asarray(gradients.out.kernel) * (1 - np.asarray(model.out.mask))).any()
  assert_autoregressive(folded)
  again = wn.unfold(folded)
  close(again(random(3, 4)), folded(random(3, 4)))
  descend(again, loss)
  assert_autoregressive(again)
  assert kinds(again) == {'hidden', 'out'}
  assert nnx.graphdef(again) == nnx.graphdef(model)


@pytest.mark.parametrize(('mask', 'message'), [(jnp.ones((2, 2)), 'shape'), (None, '0 .* and 1')])
def test_mask_of_masked_linear_is_checked(mask, message):
  mask = jnp.full((4, 4), 0.5) if mask is None else mask
  with pytest.raises(ValueError, match=f'mask must .*{message}'):
    wn.MaskedLinear(4, 4, mask=mask, rngs=nnx.Rngs(0))


# filter.


FILTERS = [
  (nnx.Conv, {'stem'}),
  ((nnx.Conv, nnx.Embed), {'stem', 'embed'}),
  (nnx.PathContains('head'), {'head.layer'}),
  (nnx.Not(nnx.PathContains('head')), {'stem', 'embed', 'blocks.0', 'blocks.1'}),
  (nnx.All(nnx.Linear, nnx.Not(nnx.PathContains(1))), {'head.layer', 'blocks.0'}),
  (lambda path, layer: path[-1] == 1, {'blocks.1'}),
  (lambda path, layer: getattr(layer, 'out_features', 0) == 5, {'head.layer'}),
  (..., {'stem', 'embed', 'head.layer', 'blocks.0', 'blocks.1'}),
]


@pytest.mark.parametrize(('filter', 'expected'), FILTERS)
def test_filter_chooses_layers(filter, expected):
  model = Holder(
    stem=nnx.Conv(3, 4, (3,), rngs=nnx.Rngs(0)),
    embed=nnx.Embed(3, 4, rngs=nnx.Rngs(0)),
    blocks=nnx.List([linear(0), linear(1)]),
    head=Holder2(linear(2, 4, 5)),
  )
  assert kinds(wn.unfold(model, filter=filter)) == expected


def test_string_as_filter_is_an_error_that_names_the_remedy():
  """For nnx it is the tag of a variable, and would choose nothing."""
  with pytest.raises(TypeError, match=r"nnx\.PathContains\('head'\)"):
    wn.unfold(Holder(head=linear()), filter='head')


def test_layers_not_chosen_raise_no_warning():
  model = Tied()
  assert kinds(wn.unfold(model, filter=nnx.PathContains('hidden'))) == {'hidden'}
