"""`LinearGeneral`, `Einsum` and `Embed`, and a transformer made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def f64(x):
  return np.asarray(x).astype(np.float64)


def close(actual, expected, tolerance=1e-5):
  actual, expected = f64(actual), f64(expected)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def numbers(model):
  return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


# (class, arguments, shape of the input, einsum of input and kernel, axes of the kernel summed over)
def general(in_features, out_features, shape, einsum, summed, **kwargs):
  arguments = dict(in_features=in_features, out_features=out_features, **kwargs)
  name = f'LinearGeneral {einsum}'
  return pytest.param(nnx.LinearGeneral, arguments, shape, einsum, summed, id=name)


def einsum(einsum_str, kernel_shape, bias_shape, shape, summed):
  arguments = dict(einsum_str=einsum_str, kernel_shape=kernel_shape, bias_shape=bias_shape)
  return pytest.param(nnx.Einsum, arguments, shape, einsum_str, summed, id=f'Einsum {einsum_str}')


LAYERS = [
  general(3, (2, 4), (5, 6, 3), 'bti,iho->btho', (0,)),
  general((2, 3), (4, 5), (2, 6, 3), 'ibj,ijop->bop', (0, 1), axis=(0, -1)),
  general(3, (4,), (2, 5, 3), 'nbi,nio->nbo', (1,), batch_axis={0: 2}),
  general(3, (4,), (5, 3), 'bi,io->bo', (0,), use_bias=False),
  einsum('bi,io->bo', (3, 4), (4,), (5, 3), (0,)),
  einsum('bti,oih->bhto', (4, 3, 2), (2, 1, 4), (5, 6, 3), (1,)),
  einsum('...i,ohi->...ho', (4, 2, 3), (2, 4), (5, 6, 3), (2,)),
  einsum('nta,hab->bhnt', (2, 3, 4), (4, 2, 1, 1), (5, 6, 3), (1,)),
  einsum('nbi, nio -> nbo', (2, 3, 4), None, (2, 5, 3), (1,)),
]
for_each_layer = pytest.mark.parametrize(('cls', 'kwargs', 'shape', 'equation', 'summed'), LAYERS)
NORMALIZED = {nnx.LinearGeneral: wn.LinearGeneral, nnx.Einsum: wn.Einsum}


def both(cls, kwargs):
  init = dict(bias_init=nnx.initializers.normal(0.5))
  if kwargs.get('bias_shape', 0) is None:
    init = {}
  plain = cls(**kwargs, **init, rngs=nnx.Rngs(0))
  return plain, NORMALIZED[cls](**kwargs, **init, rngs=nnx.Rngs(0))


def bias_of(layer):
  bias = 0 if layer.bias is None else f64(layer.bias)
  return bias[:, None] if getattr(layer, 'batch_axis', None) else bias


@for_each_layer
def test_starts_as_its_namesake(cls, kwargs, shape, equation, summed):
  plain, layer = both(cls, kwargs)
  x = random(*shape)
  np.testing.assert_array_equal(layer.kernel[...], plain.kernel[...])
  y, expected = layer(x), plain(x)
  assert y.dtype == expected.dtype
  close(y, expected)
  kernel = plain.kernel[...]
  assert layer.scale.shape == tuple(n for i, n in enumerate(kernel.shape) if i not in summed)
  close(layer.scale, np.sqrt(np.sum(f64(kernel) ** 2, summed)))


@for_each_layer
def test_output_and_gradients_are_eq_1_to_3(cls, kwargs, shape, equation, summed):
  plain, layer = both(cls, kwargs)
  log_scale = 2.0 if plain.bias is None else False
  layer = wn.unfold(wn.fold(layer), log_scale=log_scale)
  layer.kernel[...] = random(*layer.kernel.shape, seed=1)
  layer.scale[...] = random(*layer.scale.shape, seed=2)
  x = random(*shape)
  v, x64 = f64(layer.kernel), f64(x)
  equation = equation.replace(' ', '').replace('...', 'yz')
  g = np.exp(2 * f64(layer.scale)) if log_scale else f64(layer.scale)
  norm = np.sqrt(np.sum(v**2, summed, keepdims=True))
  full_g = np.expand_dims(g, summed)
  y = np.einsum(equation, x64, full_g * v / norm) + bias_of(layer)
  close(layer(x), y, 1e-4)

  dy = random(*y.shape, seed=3)
  gradient = nnx.grad(lambda layer: jnp.sum(layer(x) * dy))(layer)
  operands, output = equation.split('->')
  inputs, kernel = operands.split(',')
  dw = np.einsum(f'{inputs},{output}->{kernel}', x64, f64(dy))
  dg = np.sum(dw * v, summed, keepdims=True) / norm
  dv = full_g / norm * (dw - dg * v / norm)
  close(gradient.scale, dg.reshape(g.shape) * (2 * g if log_scale else 1), 1e-3)
  close(gradient.kernel, dv, 1e-3)
  close(np.sum(f64(gradient.kernel) * v, summed), np.zeros(g.shape), 1e-3)


@for_each_layer
def test_folds_and_unfolds(cls, kwargs, shape, equation, summed):
  plain, layer = both(cls, kwargs)
  assert nnx.graphdef(wn.fold(layer)) == nnx.graphdef(plain)
  assert nnx.graphdef(wn.unfold(plain)) == nnx.graphdef(layer)
  layer.scale[...] = random(*layer.scale.shape)
  x = random(*shape)
  close(wn.fold(layer)(x), layer(x))
  close(wn.unfold(wn.fold(layer))(x), layer(x))
  close(wn.weight(layer), wn.fold(layer).kernel)


def test_einsum_given_at_the_call():
  layer = wn.Einsum('bi,io->bo', (3, 4), rngs=nnx.Rngs(0))
  x = random(5, 2, 3)
  close(layer(x, 'bti,io->bto'), np.einsum('bti,io->bto', f64(x), f64(layer.kernel)))


def test_einsum_whose_kernel_has_an_ellipsis_is_a_clear_error():
  with pytest.raises(ValueError, match='must name all its axes'):
    wn.Einsum('...i,...io->...o', (2, 3, 4), rngs=nnx.Rngs(0))


# Embed.


def test_embed_starts_as_its_namesake():
  plain, layer = nnx.Embed(7, 4, rngs=nnx.Rngs(0)), wn.Embed(7, 4, rngs=nnx.Rngs(0))
  tokens = jnp.asarray([[0, 6], [3, 3]])
  close(layer(tokens), plain(tokens))
  close(layer.attend(random(2, 4)), plain.attend(random(2, 4)))
  assert layer.scale.shape == (7,)
  assert nnx.graphdef(wn.fold(layer)) == nnx.graphdef(plain)
  assert nnx.graphdef(wn.unfold(plain)) == nnx.graphdef(layer)


def test_embed_of_one_embedding():
  plain, layer = nnx.Embed(1, 4, rngs=nnx.Rngs(0)), wn.Embed(1, 4, rngs=nnx.Rngs(0))
  close(layer(jnp.zeros((2, 3), int)), plain(jnp.zeros((2, 3), int)))


def test_embed_follows_the_equations_in_call_and_attend():
  layer = wn.Embed(5, 4, rngs=nnx.Rngs(0))
  g, v = f64(random(5, seed=1)), f64(layer.embedding)
  layer.scale[...] = jnp.asarray(g, jnp.float32)
  norm = np.linalg.norm(v, axis=1, keepdims=True)
  w = g[:, None] * v / norm
  tokens, query = jnp.asarray([1, 3, 1]), random(2, 4, seed=2)
  close(layer(tokens), w[[1, 3, 1]])
  close(layer.attend(query), f64(query) @ w.T)

  dx, dy = random(3, 4, seed=3), random(2, 5, seed=4)
  loss = lambda layer: jnp.sum(layer(tokens) * dx) + jnp.sum(layer.attend(query) * dy)
  gradient = nnx.grad(loss)(layer)
  dw = f64(dy).T @ f64(query)
  for token, d in zip([1, 3, 1], f64(dx)):
    dw[token] += d
  dg = np.sum(dw * v, 1, keepdims=True) / norm
  close(gradient.scale, dg[:, 0], 1e-4)
  close(gradient.embedding, g[:, None] / norm * (dw - dg * v / norm), 1e-4)


# A transformer.


class Transformer(nnx.Module):
  """Embedding, one block, and a head tied to the embedding."""

  def __init__(self, rngs):
    self.embed = nnx.Embed(11, 8, rngs=rngs)
    self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
    self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    self.mlp = nnx.Sequential(nnx.Linear(8, 16, rngs=rngs), nnx.gelu, nnx.Linear(16, 8, rngs=rngs))

  def __call__(self, tokens):
    x = self.embed(tokens)
    x = x + self.attention(self.norms[0](x), mask=nnx.make_causal_mask(tokens))
    return self.embed.attend(x + self.mlp(self.norms[1](x)))


KERNELS = {
  'embed.embedding': '[11]',
  'attention.query.kernel': '[2, 4]',
  'attention.key.kernel': '[2, 4]',
  'attention.value.kernel': '[2, 4]',
  'attention.out.kernel': '[8]',
  'mlp.layers.0.kernel': '[16]',
  'mlp.layers.2.kernel': '[8]',
}


def test_transformer_is_converted_throughout():
  plain = Transformer(nnx.Rngs(0))
  model = wn.unfold(plain)
  tokens = jnp.asarray([[1, 2, 3, 10], [4, 4, 0, 9]])
  close(model(tokens), plain(tokens))
  rows = {line.split()[0]: line.split('  ')[-1] for line in wn.summary(model).splitlines()}
  assert rows == {'weight': 'g'} | KERNELS
  plain_rows = {line.split()[0]: line.split('  ')[-1] for line in wn.summary(plain).splitlines()}
  assert plain_rows == {'weight': 'g'} | dict.fromkeys(KERNELS, 'not normalized')


def test_transformer_folds_back_to_what_it_was():
  plain = Transformer(nnx.Rngs(0))
  folded = wn.fold(wn.unfold(plain))
  assert nnx.graphdef(folded) == nnx.graphdef(plain)
  jax.tree.map(close, numbers(folded), numbers(plain))


def test_trained_transformer_folds():
  model = wn.unfold(Transformer(nnx.Rngs(0)))
  tokens = jnp.asarray([[1, 2, 3, 10], [4, 4, 0, 9]])

  @nnx.jit
  def step(model):
    gradients = nnx.grad(lambda model: jnp.mean(model(tokens) ** 2))(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients))
    return gradients

  gradients = step(model)
  assert all((g != 0).any() for g in jax.tree.leaves(gradients.attention.query.scale))
  step(model)
  close(wn.fold(model)(tokens), model(tokens))


def test_attention_with_a_cache_decodes_as_in_training():
  attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
  model = wn.unfold(attention)
  model.query.scale[...] *= 2
  x = random(1, 3, 8)
  expected = model(x, mask=nnx.make_causal_mask(x[..., 0]))
  model.init_cache((1, 3, 8))
  steps = [model(x[:, i : i + 1], decode=True) for i in range(3)]
  close(jnp.concatenate(steps, 1), expected)
