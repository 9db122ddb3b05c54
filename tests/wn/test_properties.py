"""What holds for every shape, dtype, stride and axis: examples drawn by hypothesis.

The same ones each time. Each is one compiled function, as most of the time goes into compilation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import wn

PLAIN = {
  wn.Linear: nnx.Linear,
  wn.Conv: nnx.Conv,
  wn.ConvTranspose: nnx.ConvTranspose,
  wn.LSTMCell: nnx.LSTMCell,
  wn.GRUCell: nnx.GRUCell,
}
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
# Largest error, relative to the largest value, of what is computed in a dtype.
TOLERANCES = {'float32': 1e-5, 'bfloat16': 2**-6, 'float16': 2**-9}

dtypes = st.sampled_from(DTYPES)
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)
log_scales = st.sampled_from([False, True, 0.5])


# Compilation takes most of the time, and what is computed is tiny.
compiled = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def examples(count):
  # Without making a failing example smaller: all are small, and each attempt is compiled.
  phases = (Phase.explicit, Phase.generate)
  return settings(max_examples=count, derandomize=True, deadline=None, database=None, phases=phases)


def f64(x):
  return np.asarray(x).astype(np.float64)


def by_unit(x, unit_axis=-1):
  """[units, all else] in float64."""
  x = np.moveaxis(f64(x), unit_axis, 0)
  return x.reshape(len(x), -1)


def eq2(v, g, unit_axis=-1):
  """w of the shape of v, in float64; a zero unit has norm 1."""
  squares = np.sum(by_unit(v, unit_axis) ** 2, 1)
  norm = np.sqrt(np.where(squares <= 1e-12, 1.0, squares))
  return np.moveaxis(np.moveaxis(f64(v), unit_axis, -1) * (f64(g) / norm), -1, unit_axis)


def assert_close(actual, expected, dtype=None):
  tolerance = TOLERANCES[jnp.dtype(dtype or actual.dtype).name]
  expected = f64(expected)
  assert actual.shape == expected.shape
  error = tolerance * np.abs(expected).max(initial=1e-3)
  np.testing.assert_allclose(f64(actual), expected, rtol=0, atol=error)


def create(cls, rng, **kwargs):
  """A layer with random parameters: scales are not ‖v‖, and some are negative.

  Its own ones are not computed, which would be compiled for every shape.
  """
  layer = nnx.eval_shape(lambda: cls(**kwargs, rngs=nnx.Rngs(0)))
  random_like = lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype)
  nnx.update(layer, jax.tree.map(random_like, nnx.state(layer)))
  return layer


@st.composite
def kernels(draw):
  """v, g, ∇w and the unit axis; units of very different lengths, of length 0 among them."""
  shape = draw(st.lists(sizes, min_size=1, max_size=4))
  unit_axis = draw(st.integers(-len(shape), len(shape) - 1))
  rng = np.random.default_rng(draw(seeds))
  lengths = rng.choice([0, 2.0**-8, 1, 2**8], size=shape[unit_axis])
  v = np.moveaxis(np.moveaxis(rng.normal(size=shape), unit_axis, -1) * lengths, -1, unit_axis)
  v, g = jnp.asarray(v, draw(dtypes)), jnp.asarray(rng.normal(size=len(lengths)), draw(dtypes))
  return v, g, jnp.asarray(rng.normal(size=shape), jnp.float32), unit_axis


@examples(15)
@given(kernels())
def test_weight_norm(kernel):
  v, g, dw, unit_axis = kernel

  @compiled
  def run(v, g):
    w, vjp = jax.vjp(lambda v, g: wn.weight_norm(v, g, unit_axis=unit_axis), v, g)
    return w, wn.weight_norm(8 * v, g, unit_axis=unit_axis), vjp(dw)

  w, of_longer, (dv, dg) = run(v, g)
  assert w.dtype == jnp.float32 and dv.dtype == v.dtype and dg.dtype == g.dtype
  assert_close(w, eq2(v, g, unit_axis))
  v, w, of_longer, dv, dw = (by_unit(x, unit_axis) for x in (v, w, of_longer, dv, dw))
  norm, g = np.linalg.norm(v, axis=1), f64(g)
  units = norm > 0
  np.testing.assert_allclose(np.linalg.norm(w, axis=1)[units], np.abs(g[units]), rtol=1e-5)
  np.testing.assert_allclose(of_longer, w, rtol=1e-5)
  # Eq. 3 for units with a direction; ∇v = g ∇w for the others.
  v, norm = v / np.where(units, norm, 1)[:, None], np.where(units, norm, 1)
  expected_dg = np.sum(dw * v, 1)
  expected_dv = (g / norm)[:, None] * (dw - expected_dg[:, None] * v)
  largest = np.abs(g / norm)[:, None] * np.linalg.norm(dw, axis=1, keepdims=True)
  rounding = TOLERANCES[kernel[0].dtype.name]
  assert (np.abs(dv - expected_dv) <= rounding * largest).all()
  assert (np.abs(np.sum(dv * v, 1)) <= rounding * largest[:, 0] * dv.shape[1]).all()
  assert_close(dg, expected_dg, kernel[1].dtype)


@examples(20)
@given(kernels(), st.integers(-6, 6), st.lists(sizes, max_size=2))
def test_weight_norm_refuses_what_does_not_fit(kernel, unit_axis, g_shape):
  v = kernel[0]
  if not -v.ndim <= unit_axis < v.ndim:
    with pytest.raises(ValueError, match=f'unit_axis={unit_axis} is out of range for a kernel of'):
      wn.weight_norm(v, kernel[1], unit_axis=unit_axis)
  elif g_shape != [v.shape[unit_axis]]:
    with pytest.raises(ValueError, match=r'g must have shape .* one scale per index of unit_axis'):
      wn.weight_norm(v, np.ones(g_shape, np.float32), unit_axis=unit_axis)


@st.composite
def layers(draw, cls):
  """(keyword arguments, shape of the input)."""
  kwargs = {
    'dtype': draw(st.none() | dtypes),
    'param_dtype': draw(dtypes),
    'use_bias': draw(st.booleans()),
  }
  inputs, outputs = draw(sizes), draw(sizes)
  batch = draw(st.lists(sizes, max_size=2))
  if cls is wn.Linear:
    return kwargs | {'in_features': inputs, 'out_features': outputs}, (*batch, inputs)
  ndim = draw(st.integers(1, 2))
  several = lambda numbers: draw(st.lists(numbers, min_size=ndim, max_size=ndim).map(tuple))
  window = several(st.integers(1, 3))
  space = several(st.integers(5, 7))
  kwargs |= {'kernel_size': window, 'strides': several(st.integers(1, 2))}
  paddings = ['SAME', 'VALID', 'CIRCULAR']
  if cls is wn.Conv:
    groups = draw(st.integers(1, 2))
    inputs, outputs = groups * inputs, groups * outputs
    kwargs |= {'feature_group_count': groups, 'kernel_dilation': several(st.integers(1, 2))}
    paddings += [1, [(2, 0)] * ndim] + ['CAUSAL'] * (ndim == 1)
  else:
    kwargs['transpose_kernel'] = draw(st.booleans())
  kwargs['padding'] = draw(st.sampled_from(paddings))
  return kwargs | {'in_features': inputs, 'out_features': outputs}, (*batch, *space, inputs)


def check_layer(cls, kwargs, in_shape, log_scale, seed):
  rng = np.random.default_rng(seed)
  layer = create(cls, rng, log_scale=log_scale, **kwargs)
  plain = create(PLAIN[cls], rng, **kwargs)
  param_dtype, axis = jnp.dtype(kwargs['param_dtype']), wn.unit_axes(layer)
  units = kwargs['out_features']
  assert layer.scale.shape == (units,) and layer.kernel.shape == plain.kernel.shape
  assert {p.dtype for p in jax.tree.leaves(nnx.state(layer))} == {param_dtype}

  g = np.exp(layer.log_scale * f64(layer.scale)) if log_scale else f64(layer.scale)
  w = eq2(layer.kernel, g, axis)
  w_dtype = param_dtype if layer.dtype is None else jnp.float32
  plain.kernel = nnx.Param(jnp.asarray(w, w_dtype))
  plain.bias = layer.bias
  x = jnp.asarray(rng.normal(size=in_shape), jnp.float32)

  @compiled
  def run(layer, plain):
    longer = nnx.clone(layer)
    longer.kernel[...] = 4 * longer.kernel[...]
    folded = wn.fold(layer)
    again = wn.unfold(folded, log_scale=not log_scale)
    assert type(folded) is PLAIN[cls] and type(again) is cls
    loss = lambda layer: jnp.sum(jnp.sin(layer(x).astype(jnp.float32)))
    outputs = [model(x) for model in (layer, plain, longer, folded, again)]
    return outputs, nnx.grad(loss)(layer).kernel[...]

  outputs, dv = run(layer, plain)
  both = (jnp.dtype(layer.dtype or param_dtype), param_dtype)
  coarser = max(both, key=lambda dtype: TOLERANCES[dtype.name])
  for y in outputs:
    assert y.dtype == outputs[1].dtype
    assert_close(y, outputs[1], coarser)
  v, dv = by_unit(layer.kernel[...], axis), by_unit(dv, axis)
  # v·∇v is the sum of terms that cancel: |g| times inputs times derivatives that are 1 at most.
  terms = np.abs(g) * np.abs(f64(x)).sum()
  assert (np.abs(np.sum(v * dv, 1)) <= TOLERANCES[coarser.name] * terms).all()


@examples(12)
@given(layers(wn.Linear), log_scales, seeds)
def test_linear(layer, log_scale, seed):
  check_layer(wn.Linear, *layer, log_scale, seed)


@examples(12)
@given(layers(wn.Conv), log_scales, seeds)
def test_conv(layer, log_scale, seed):
  check_layer(wn.Conv, *layer, log_scale, seed)


@examples(12)
@given(layers(wn.ConvTranspose), log_scales, seeds)
def test_conv_transpose(layer, log_scale, seed):
  check_layer(wn.ConvTranspose, *layer, log_scale, seed)


@examples(8)
@given(st.sampled_from([wn.LSTMCell, wn.GRUCell]), sizes, sizes, sizes, dtypes, log_scales, seeds)
def test_cells(cls, batch, inputs, hidden, dtype, log_scale, seed):
  rng = np.random.default_rng(seed)
  kwargs = {'in_features': inputs, 'hidden_features': hidden, 'dtype': dtype}
  cell = create(cls, rng, log_scale=log_scale, **kwargs)
  plain = create(PLAIN[cls], rng, **kwargs)
  for path, matrix in nnx.iter_modules(plain):
    if isinstance(matrix, nnx.Linear):
      normed = getattr(cell, path[0])
      g = np.exp(normed.log_scale * f64(normed.scale)) if log_scale else f64(normed.scale)
      matrix.kernel = nnx.Param(jnp.asarray(eq2(normed.kernel, g), jnp.float32))
      matrix.bias = normed.bias
  x = jnp.asarray(rng.normal(size=(batch, inputs)), dtype)
  h = jnp.asarray(rng.normal(size=(batch, hidden)), dtype)
  carry = (h, -h) if cls is wn.LSTMCell else h

  @compiled
  def run(cell, plain):
    folded = wn.fold(cell)
    again = wn.unfold(folded)
    assert type(folded) is PLAIN[cls] and type(again) is cls
    return [model(carry, x) for model in (plain, cell, folded, again)]

  expected, *others = run(cell, plain)
  for actual in others:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
      assert a.dtype == b.dtype
      assert_close(a, b, dtype)


@examples(8)
@given(
  st.sampled_from([wn.Linear, wn.Conv, wn.ConvTranspose]),
  sizes,
  sizes,
  st.sampled_from([0.1, 1, 3]),
  log_scales,
  seeds,
)
def test_data_dependent_init(cls, inputs, outputs, init_scale, log_scale, seed):
  rng = np.random.default_rng(seed)
  kwargs = {'in_features': inputs, 'out_features': outputs}
  kwargs |= {} if cls is wn.Linear else {'kernel_size': (2,)}
  layer = create(cls, rng, log_scale=log_scale, **kwargs)
  plain = create(PLAIN[cls], rng, **kwargs)
  plain.kernel = nnx.Param(layer.kernel[...])
  shape = (40, inputs) if cls is wn.Linear else (20, 6, inputs)
  x = jnp.asarray(rng.normal(size=shape) + 1, jnp.float32)

  @compiled
  def run(layer, plain):
    for model in (layer, plain):
      wn.data_dependent_init(model, x, init_scale=init_scale)
    return layer(x), plain(x), layer.kernel[...]

  t, t_plain, v = run(layer, plain)
  np.testing.assert_array_equal(v, layer.kernel[...])
  axes = tuple(range(t.ndim - 1))
  np.testing.assert_allclose(f64(t).mean(axes), 0, atol=1e-4 * init_scale)
  np.testing.assert_allclose(f64(t).std(axes), init_scale, rtol=1e-4)
  assert_close(t_plain, t)


@examples(12)
@given(
  st.lists(sizes, min_size=2, max_size=4), st.data(), st.none() | dtypes, dtypes, dtypes, seeds
)
def test_mean_only_batch_norm(shape, data, dtype, param_dtype, x_dtype, seed):
  axis = data.draw(st.integers(-len(shape), len(shape) - 1))
  momentum = data.draw(st.floats(0, 0.99))
  rng = np.random.default_rng(seed)
  kwargs = dict(axis=axis, momentum=momentum, dtype=dtype, param_dtype=param_dtype)
  norm = create(wn.MeanOnlyBatchNorm, rng, num_features=shape[axis], **kwargs)
  assert norm.mean.dtype == jnp.float32 and norm.bias.dtype == param_dtype
  x = jnp.asarray(rng.normal(size=shape) + 2, x_dtype)

  @compiled
  def run(norm):
    y = norm(x)
    return y, norm.mean[...], norm(x, use_running_average=True)

  y, running, y_eval = run(norm)
  units = by_unit(x, axis)
  bias = f64(norm.bias)[:, None]
  mean = units.mean(1)
  assert running.dtype == jnp.float32
  assert_close(running, momentum * f64(norm.mean) + (1 - momentum) * mean)
  out_dtype = jnp.dtype(dtype or jnp.promote_types(x_dtype, param_dtype))
  for actual, center in ((y, mean), (y_eval, f64(running))):
    assert actual.shape == x.shape and actual.dtype == out_dtype
    # Absolute: what is subtracted was rounded to the dtype of the result first.
    error = TOLERANCES[out_dtype.name] * (np.abs(units).max() + np.abs(bias).max())
    expected = units - center[:, None] + bias
    np.testing.assert_allclose(by_unit(actual, axis), expected, rtol=0, atol=error)
