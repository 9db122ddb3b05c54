"""What `wn.fold` and `wn.unfold` convert, what they leave alone, and `wn.register`."""

import copy
import functools
import pickle
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


# Subclasses.


class Named(nnx.Linear):
  """Adds to its parent, and keeps its forward pass."""

  def __init__(self, n_in, n_out, *, label, rngs):
    super().__init__(n_in, n_out, rngs=rngs)
    self.label = label
    self.extra = nnx.Param(jnp.ones(3))

  def describe(self):
    return f'{self.label}: {self.in_features}'


class Scaled(nnx.Linear):
  def __call__(self, x):
    return 2 * super().__call__(x)


def test_subclass_without_forward_pass_is_converted_and_folded_back():
  model, x = Named(4, 5, label='mine', rngs=nnx.Rngs(0)), random(3, 4)
  unfolded = wn.unfold(model)
  assert isinstance(unfolded, Named) and isinstance(unfolded, wn.Linear)
  assert unfolded.describe() == 'mine: 4'
  unfolded.scale[...] *= 2
  unfolded.extra[...] += 1
  close(unfolded(x), 2 * model(x))
  folded = wn.fold(unfolded)
  assert type(folded) is Named
  assert nnx.graphdef(folded) == nnx.graphdef(model)
  close(folded(x), 2 * model(x))
  close(folded.extra, 2)
  assert 'wn.Named' in wn.summary(unfolded)


def test_converted_subclass_under_split_merge_jit_and_copies():
  model, x = wn.unfold(Named(4, 5, label='mine', rngs=nnx.Rngs(0))), random(3, 4)
  other = wn.unfold(Named(4, 5, label='mine', rngs=nnx.Rngs(1)))
  assert type(other) is type(model), 'one class, so that jit compiles once'
  assert nnx.graphdef(other) == nnx.graphdef(model)
  graphdef, state = nnx.split(model)
  assert type(nnx.merge(graphdef, state)) is type(model)
  close(nnx.jit(lambda model, x: model(x))(model, x), model(x))
  close(copy.deepcopy(model)(x), model(x))
  again = type(model)(4, 5, label='new', rngs=nnx.Rngs(0))
  close(again(x), model(x))


@pytest.mark.parametrize('library', ['pickle', 'cloudpickle'])
def test_converted_subclass_can_be_pickled(library):
  library = pytest.importorskip(library)
  model, x = wn.unfold(Named(4, 5, label='mine', rngs=nnx.Rngs(0))), random(3, 4)
  again = pickle.loads(library.dumps(model))
  assert type(again) is type(model)
  close(again(x), model(x))
  assert type(wn.fold(again)) is Named


def test_subclass_with_its_own_forward_pass_is_left_alone():
  model, x = Holder(a=Scaled(4, 4, rngs=nnx.Rngs(0)), b=linear()), random(3, 4)
  with pytest.warns(
    UserWarning, match=r'a \(Scaled may have its own forward pass: see wn.register\)'
  ):
    unfolded = wn.unfold(model)
  assert kinds(unfolded) == {'b'}
  close(unfolded.a(x), model.a(x))


class ReadsOwnKernel(nnx.Linear):
  def penalty(self):
    return jnp.sum(self.kernel[...] ** 2)


def test_subclass_with_another_method_that_reads_the_kernel_is_left_alone():
  with pytest.warns(UserWarning, match='ReadsOwnKernel'):
    assert kinds(wn.unfold(Holder(a=ReadsOwnKernel(4, 4, rngs=nnx.Rngs(0))))) == set()


# register.


class CausalConv(nnx.Conv):
  """Convolution over the past: WaveNet's (van den Oord et al. 2016)."""

  def __call__(self, x):
    left = (self.kernel_size[0] - 1) * self.kernel_dilation
    return super().__call__(jnp.pad(x, ((0, 0), (left, 0), (0, 0))))


class NormalizedCausalConv(CausalConv, wn.Conv):
  pass


wn.register(CausalConv, NormalizedCausalConv)


class LabelledConv(CausalConv):
  """Of a registered class, without a forward pass of its own."""

  label = 'mine'


class WaveNetBlock(nnx.Module):
  def __init__(self, rngs, cls=CausalConv):
    make = lambda: cls(4, 4, 2, kernel_dilation=2, padding='VALID', rngs=rngs)
    self.filter, self.gate = make(), make()
    self.residual = nnx.Conv(4, 4, 1, rngs=rngs)

  def __call__(self, x):
    return x + self.residual(jnp.tanh(self.filter(x)) * nnx.sigmoid(self.gate(x)))


@pytest.mark.parametrize('cls', [CausalConv, LabelledConv])
def test_registered_class_is_converted_in_both_directions(cls):
  plain, x = WaveNetBlock(nnx.Rngs(0), cls), random(2, 8, 4)
  model = wn.unfold(plain)
  assert kinds(model) == {'filter', 'gate', 'residual'}
  assert isinstance(model.gate, NormalizedCausalConv) and isinstance(model.gate, cls)
  close(model(x), plain(x))
  model.gate.scale[...] *= 3
  w = np.asarray(plain.gate.kernel)
  folded = wn.fold(model)
  assert nnx.graphdef(folded) == nnx.graphdef(plain)
  close(folded.gate.kernel, 3 * w)
  close(folded(x), model(x))
  moved = model(x.at[:, 5].add(1.0)) - model(x)
  assert not moved[:, :5].any() and moved[:, 5:].any()


def test_subclass_of_a_registered_normalized_class_folds():
  class Mine(NormalizedCausalConv):
    pass

  layer, x = Mine(4, 4, 2, padding='VALID', rngs=nnx.Rngs(0)), random(2, 8, 4)
  folded = wn.fold(layer)
  assert type(folded) is CausalConv
  close(folded(x), layer(x))


@pytest.mark.parametrize(
  ('plain', 'normalized'),
  [(nnx.LayerNorm, wn.Linear), (CausalConv, wn.Linear), (wn.Conv, wn.Conv), (Scaled, Scaled)],
)
def test_register_refuses_classes_that_do_not_match(plain, normalized):
  with pytest.raises(TypeError, match='must be a subclass of'):
    wn.register(plain, normalized)


# Stacks.


@nnx.vmap
def plain_stack(key):
  return nnx.Linear(4, 4, rngs=nnx.Rngs(key), bias_init=nnx.initializers.normal())


@nnx.vmap
def normalized_stack(key):
  return wn.Linear(4, 4, rngs=nnx.Rngs(key), bias_init=nnx.initializers.normal())


KEYS = jax.random.split(jax.random.key(0), 3)


@nnx.scan(in_axes=(nnx.StateAxes({...: 0}), nnx.Carry), out_axes=nnx.Carry)
def scanned(layer, x):
  return jnp.tanh(layer(x))


def looped(layers, x, g):
  """In NumPy and float64."""
  x = np.asarray(x, np.float64)
  for v, g_l, b in zip(np.asarray(layers.kernel, np.float64), g, np.asarray(layers.bias)):
    x = np.tanh(x @ (g_l * v / np.linalg.norm(v, axis=0)) + b)
  return x


def test_unfold_of_a_stack_gives_every_layer_its_own_g():
  plain, x = plain_stack(KEYS), random(2, 4)
  stack = wn.unfold(plain)
  assert stack.scale.shape == (3, 4)
  norms = np.linalg.norm(np.asarray(plain.kernel, np.float64), axis=1)
  close(stack.scale, norms)
  close(scanned(stack, x), looped(plain, x, norms))
  again = wn.fold(stack)
  assert nnx.graphdef(again) == nnx.graphdef(plain)
  close(again.kernel, plain.kernel)


def test_stack_of_normalized_layers_is_a_loop_over_single_ones():
  stack, x = normalized_stack(KEYS), random(2, 4)
  assert stack.scale.shape == (3, 4)
  g = np.random.default_rng(3).normal(size=(3, 4))
  stack.scale[...] = jnp.asarray(g, jnp.float32)
  expected = looped(stack, x, g)
  close(scanned(stack, x), expected)
  close(scanned(wn.fold(stack), x), expected)
  close(wn.weight(stack), wn.fold(stack).kernel)
  stack.set_weight(wn.weight(stack))
  close(scanned(stack, x), expected)


def test_gradients_of_a_stack_are_finite_differences():
  stack, x = normalized_stack(KEYS), random(2, 4)
  gradients = nnx.grad(lambda stack: jnp.sum(scanned(stack, x) ** 2))(stack)
  g = np.asarray(stack.scale, np.float64)
  loss = lambda g: np.sum(looped(stack, x, g) ** 2)
  slope = np.zeros(g.shape)
  for i in np.ndindex(g.shape):
    step = np.zeros(g.shape)
    step[i] = 1e-6
    slope[i] = (loss(g + step) - loss(g - step)) / 2e-6
  close(gradients.scale, slope, 1e-4)
  close(np.sum(np.asarray(gradients.kernel * stack.kernel), 1), np.zeros((3, 4)), 1e-4)


def test_stacks_of_other_layers_and_of_stacks():
  conv = nnx.vmap(lambda key: nnx.Conv(4, 6, (2,), feature_group_count=2, rngs=nnx.Rngs(key)))(KEYS)
  general = nnx.vmap(lambda key: nnx.LinearGeneral(4, (2, 3), rngs=nnx.Rngs(key)))(KEYS)
  embed = nnx.vmap(lambda key: nnx.Embed(5, 4, rngs=nnx.Rngs(key)))(KEYS)
  twice = nnx.vmap(nnx.vmap(lambda key: linear_of(key)))(KEYS.reshape(3, 1))
  shapes = [wn.unfold(layer).scale.shape for layer in (conv, general, embed, twice)]
  assert shapes == [(3, 6), (3, 2, 3), (3, 5), (3, 1, 4)]


def linear_of(key):
  return nnx.Linear(4, 4, rngs=nnx.Rngs(key))


# Typical models.


class Glu(nnx.Module):
  """Gated convolutions, depthwise and pointwise (Dauphin et al. 2017; Wu et al. 2019)."""

  def __init__(self, rngs):
    self.wide = nnx.Conv(4, 8, 3, padding='CAUSAL', rngs=rngs)
    self.depthwise = nnx.Conv(4, 4, 3, feature_group_count=4, rngs=rngs)
    self.out = nnx.Conv(4, 4, 1, rngs=rngs)

  def __call__(self, x):
    return self.out(self.depthwise(nnx.glu(self.wide(x))))


def test_gated_and_depthwise_convolutions():
  plain, x = Glu(nnx.Rngs(0)), random(2, 6, 4)
  model = wn.unfold(plain)
  close(model(x), plain(x))
  v = np.asarray(plain.depthwise.kernel, np.float64)  # [3, 1, 4]
  close(model.depthwise.scale, np.linalg.norm(v[:, 0], axis=0))
  descend(model, lambda model: jnp.mean(model(x) ** 2))
  close(wn.fold(model)(x), model(x))


@pytest.mark.parametrize('cell', [nnx.SimpleCell, nnx.OptimizedLSTMCell])
def test_recurrent_networks(cell):
  plain, x = nnx.RNN(cell(3, 4, rngs=nnx.Rngs(0))), random(2, 5, 3)
  model = wn.unfold(plain)
  assert kinds(model) == {'cell.dense_i', 'cell.dense_h'}
  close(model(x), plain(x))
  model.cell.dense_h.scale[...] *= 2
  close(wn.fold(model)(x), model(x))
  assert nnx.graphdef(wn.fold(model)) == nnx.graphdef(plain)


def test_fold_and_unfold_of_shapes_are_errors_that_say_what_to_do():
  shapes = nnx.eval_shape(lambda: wn.Linear(3, 4, rngs=nnx.Rngs(0)))
  with pytest.raises(TypeError, match=r'cannot fold .*nnx\.eval_shape\(lambda: wn\.fold\('):
    wn.fold(shapes)
  with pytest.raises(TypeError, match=r'cannot unfold .*nnx\.eval_shape\(lambda: wn\.unfold\('):
    wn.unfold(nnx.eval_shape(linear))
  assert nnx.eval_shape(lambda: wn.unfold(linear())).scale.get_value().shape == (4,)
  assert '[4]' in wn.summary(shapes)


def test_summary_of_parameters_that_are_no_arrays():
  model = Holder(parameter=nnx.Param({'a': jnp.ones((2, 2))}), layer=linear())
  assert 'layer.kernel' in wn.summary(model)


class ReadsV(nnx.Module):
  def __init__(self):
    self.layer = wn.Linear(3, 3, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return self.layer(x) @ self.layer.kernel[...].T


def test_fold_warns_of_a_kernel_that_the_model_reads():
  with pytest.warns(UserWarning, match=r'wn\.fold: ReadsV\.__call__ reads the kernel of layer'):
    wn.fold(ReadsV())


def test_a_filter_that_chooses_nothing_is_a_warning():
  model = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
  with pytest.warns(UserWarning, match='the filter chooses none of the layers'):
    unfolded = wn.unfold(model, filter=nnx.Conv)
  assert type(unfolded) is nnx.Linear


class LoopsOverLayers(nnx.Module):
  def __init__(self):
    self.layers = nnx.List([nnx.Linear(3, 3, rngs=nnx.Rngs(0))])

  def penalty(self):
    return sum(layer.kernel[...].sum() for layer in self.layers)


def test_unfold_warns_of_reads_that_it_cannot_tell():
  with pytest.warns(UserWarning, match=r'LoopsOverLayers\.penalty may read the kernel of a layer'):
    wn.unfold(LoopsOverLayers())
