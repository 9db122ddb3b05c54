"""Units with a zero or tiny kernel, masked units, and setting weights."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wn

ZEROS = nnx.initializers.zeros


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def f64(x):
  return np.asarray(x).astype(np.float64)


LAYERS = {
  'Linear': ((4, 3), {}, (5, 4)),
  'Conv': ((4, 3, (3,)), {}, (2, 6, 4)),
  'ConvTranspose': ((4, 3, (3,)), dict(transpose_kernel=True), (2, 6, 4)),
  'LinearGeneral': ((4, (3, 2)), {}, (5, 4)),
  'Einsum': (('bi,ohi->bho', (3, 2, 4), (2, 3)), {}, (5, 4)),
}


def layer_of(library, name, init=ZEROS, **kwargs):
  arguments, own, shape = LAYERS[name]
  bias = nnx.initializers.normal(1.0)
  layer = getattr(library, name)(
    *arguments, kernel_init=init, bias_init=bias, rngs=nnx.Rngs(0), **own, **kwargs
  )
  return layer, random(*shape, seed=1)


def unit_norms(layer, w):
  axes = tuple(i for i in range(w.ndim) if i - w.ndim not in layer.unit_axis)
  return np.sqrt(np.sum(f64(w) ** 2, axes))


def step(layer, x, rate, optimizer=optax.sgd):
  optimizer = nnx.Optimizer(layer, optimizer(rate), wrt=nnx.Param)
  gradients = nnx.grad(lambda layer: jnp.mean((layer(x) - 1) ** 2))(layer)
  optimizer.update(layer, gradients)
  return gradients


@pytest.mark.parametrize(
  ('way', 'name'),
  [
    ('constructor', 'Linear'),
    ('unfold', 'Conv'),
    ('constructor', 'ConvTranspose'),
    ('unfold', 'LinearGeneral'),
    ('constructor', 'Einsum'),
  ],
)
def test_zero_kernel_starts_at_the_bias_and_moves_by_the_step(way, name):
  plain, x = layer_of(nnx, name)
  layer = layer_of(wn, name)[0] if way == 'constructor' else wn.unfold(plain)
  np.testing.assert_array_equal(layer(x), plain(x))
  assert not layer.scale[...].any() and not layer.normalized_kernel().any()
  np.testing.assert_allclose(unit_norms(layer, layer.kernel[...]), 1, rtol=1e-5)
  assert not plain.kernel[...].any()

  gradients = step(layer, x, 1e-6)
  assert (f64(gradients.scale) != 0).all()
  norms = unit_norms(layer, layer.normalized_kernel())
  np.testing.assert_allclose(norms, 1e-6 * np.abs(f64(gradients.scale)), rtol=1e-3)


def test_first_step_of_adam_is_of_the_size_of_its_rate():
  layer, x = layer_of(wn, 'Linear')
  step(layer, x, 1e-6, optax.adam)
  np.testing.assert_allclose(unit_norms(layer, layer.normalized_kernel()), 1e-6, rtol=1e-3)


def test_layer_that_started_at_zero_learns():
  layer, x = layer_of(wn, 'Linear')
  target = x @ random(4, 3, seed=5)
  optimizer = nnx.Optimizer(layer, optax.adam(0.1), wrt=nnx.Param)

  @nnx.jit
  def train(layer, optimizer):
    loss, gradients = nnx.value_and_grad(lambda layer: jnp.mean((layer(x) - target) ** 2))(layer)
    optimizer.update(layer, gradients)
    return loss

  losses = [train(layer, optimizer) for _ in range(300)]
  assert losses[-1] < 0.01 * losses[0]


def test_only_zero_units_get_a_direction():
  v = random(4, 3).at[:, 1].set(0)
  layer = wn.unfold(nnx.Linear(4, 3, kernel_init=lambda *_: v, rngs=nnx.Rngs(0)))
  np.testing.assert_array_equal(layer.kernel[:, [0, 2]], v[:, [0, 2]])
  np.testing.assert_allclose(layer.normalized_kernel(), v, rtol=1e-5)
  assert layer.scale[1] == 0 and layer.kernel[:, 1].all()


def test_zero_units_under_jit_vmap_and_eval_shape():
  create = lambda: wn.Linear(4, 3, kernel_init=ZEROS, rngs=nnx.Rngs(0))
  stack = nnx.vmap(lambda key: wn.Linear(4, 3, kernel_init=ZEROS, rngs=nnx.Rngs(key)))(
    jax.random.split(jax.random.key(0), 2)
  )
  for layer in (nnx.jit(create)(), stack):
    assert not layer.scale[...].any() and not layer.normalized_kernel().any()
    np.testing.assert_allclose(np.linalg.norm(layer.kernel[...], axis=-2), 1, rtol=1e-5)
  assert nnx.eval_shape(create).scale.get_value().shape == (3,)


def test_embedding_of_zeros():
  layer = wn.Embed(5, 4, embedding_init=ZEROS, rngs=nnx.Rngs(0))
  assert not layer(jnp.arange(5)).any() and not layer.scale[...].any()
  np.testing.assert_allclose(np.linalg.norm(layer.embedding[...], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize('way', ['constructor', 'unfold', 'wrapper', 'set_weight'])
def test_log_scale_warns_once_and_names_the_remedy(way):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    plain = nnx.Linear(4, 3, kernel_init=ZEROS, rngs=nnx.Rngs(0))
    match way:
      case 'constructor':
        layer = wn.Linear(4, 3, kernel_init=ZEROS, log_scale=True, rngs=nnx.Rngs(0))
      case 'unfold':
        layer = wn.unfold(plain, log_scale=True)
      case 'wrapper':
        layer = wn.WeightNorm(plain, 'kernel', log_scale=True)
      case 'set_weight':
        layer = wn.Linear(4, 3, log_scale=True, rngs=nnx.Rngs(0))
        layer.set_weight(jnp.zeros((4, 3)))
  assert len(caught) == 1
  message = str(caught[0].message)
  assert '3 of 3 units' in message and 'log_scale=0' in message
  assert caught[0].filename == __file__, 'it points at the line that made the layer'
  np.testing.assert_array_equal(layer(random(2, 4)), 0)


# Tiny kernels.


@pytest.mark.parametrize('name', ['Linear', 'Conv'])
@pytest.mark.parametrize('size', [1e-7, 1e-12])
def test_scale_of_the_kernel_does_not_matter(name, size):
  """v → size v leaves w, for a given g, and ∇g; and takes ∇v to ∇v / size."""
  one, x = layer_of(wn, name, nnx.initializers.normal(1.0))
  v = f64(one.kernel)
  tiny, _ = layer_of(wn, name, lambda key, shape, dtype: jnp.asarray(size * v, dtype))
  np.testing.assert_allclose(tiny.normalized_kernel(), size * v, rtol=1e-5)
  np.testing.assert_allclose(tiny.scale[...], size * f64(one.scale), rtol=1e-5)

  tiny.scale[...] = one.scale[...]
  np.testing.assert_allclose(tiny(x), one(x), rtol=1e-4, atol=1e-5)
  loss = lambda layer: jnp.sum(layer(x) ** 2)
  expected, actual = nnx.grad(loss)(one), nnx.grad(loss)(tiny)
  np.testing.assert_allclose(actual.scale[...], expected.scale[...], rtol=1e-4)
  dv = f64(expected.kernel)
  np.testing.assert_allclose(size * f64(actual.kernel), dv, rtol=1e-3, atol=1e-5 * np.abs(dv).max())


# Masked units.


@pytest.mark.parametrize('log_scale', [False, True])
@pytest.mark.parametrize('init', [nnx.initializers.normal(1.0), ZEROS])
def test_fully_masked_units_stay_zero(log_scale, init):
  mask = jnp.ones((4, 3)).at[:, 1].set(0).at[2, 0].set(0)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore' if log_scale and init is ZEROS else 'error')
    layer, x = layer_of(wn, 'Linear', init, mask=mask, log_scale=log_scale)
  for _ in range(2):
    gradients = step(layer, x, 0.1)
    assert not f64(gradients.kernel)[:, 1].any() and f64(gradients.scale)[1] == 0
    w = f64(layer.normalized_kernel())
    assert not w[:, 1].any() and w[2, 0] == 0
    assert np.isfinite(w).all()
  assert w[:, 0].any()


# Setting weights.


@pytest.mark.parametrize(
  ('name', 'log_scale'), [('Linear', 3.0), ('ConvTranspose', False), ('Einsum', 3.0)]
)
def test_set_weight_sets_w_and_its_norm(name, log_scale):
  layer, x = layer_of(wn, name, nnx.initializers.normal(1.0), log_scale=log_scale)
  w = random(*layer.kernel.shape, seed=9)
  layer.set_weight(w)
  np.testing.assert_allclose(layer.normalized_kernel(), w, rtol=1e-5)
  np.testing.assert_allclose(layer.get_scale(), unit_norms(layer, w), rtol=1e-5)
  plain = wn.fold(layer)
  plain.kernel[...] = w
  np.testing.assert_allclose(layer(x), plain(x), rtol=1e-4, atol=1e-5)


def test_set_weight_of_zeros_and_of_lists():
  layer = wn.Linear(2, 3, rngs=nnx.Rngs(0))
  layer.set_weight([[0.0, 3.0, 0.0], [0.0, 4.0, 1.0]])
  np.testing.assert_allclose(layer.scale[...], [0, 5, 1])
  np.testing.assert_allclose(layer.normalized_kernel(), [[0, 3, 0], [0, 4, 1]], rtol=1e-6)
  assert layer.kernel[:, 0].all()


def test_set_weight_under_a_mask():
  mask = jnp.asarray([[1, 0], [1, 1]])
  layer = wn.Linear(2, 2, mask=mask, rngs=nnx.Rngs(0))
  layer.set_weight(jnp.asarray([[3.0, 7.0], [4.0, 2.0]]))
  np.testing.assert_allclose(layer.normalized_kernel(), [[3, 0], [4, 2]], rtol=1e-6)
  np.testing.assert_allclose(layer.scale[...], [5, 2])


@pytest.mark.parametrize('shape', [(3, 4), (4,), (4, 1), (1, 4, 3)])
def test_weight_of_another_shape_is_an_error(shape):
  layer = wn.Linear(4, 3, rngs=nnx.Rngs(0))
  before = f64(layer.kernel)
  with pytest.raises(ValueError, match=r'w must have the shape of the kernel, \(4, 3\); got'):
    layer.set_weight(jnp.ones(shape))
  np.testing.assert_array_equal(layer.kernel[...], before)


@pytest.mark.parametrize('g', [[-1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [np.nan, 1.0, 1.0]])
def test_scale_without_a_logarithm_is_an_error(g):
  layer = wn.Linear(4, 3, log_scale=True, rngs=nnx.Rngs(0))
  before = f64(layer.scale)
  with pytest.raises(ValueError, match='g must be positive with log_scale'):
    layer.set_scale(jnp.asarray(g))
  np.testing.assert_array_equal(layer.scale[...], before)
  wn.Linear(4, 3, rngs=nnx.Rngs(0)).set_scale(jnp.asarray(g))


# Masks.


def test_list_as_mask_is_an_array():
  mask = [[1, 0, 1], [0, 1, 1]]
  x = random(2, 2)
  listed = wn.Linear(2, 3, mask=mask, rngs=nnx.Rngs(0))
  layer = wn.Linear(2, 3, mask=jnp.asarray(mask), rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(listed(x), layer(x))
  for other in (wn.fold(listed), wn.unfold(wn.fold(listed)), nnx.clone(listed)):
    np.testing.assert_allclose(other(x), layer(x), rtol=1e-6)
  assert nnx.graphdef(listed) == nnx.graphdef(layer)


@pytest.mark.parametrize('mask', [0.5, 2.0, -1.0, np.nan])
@pytest.mark.parametrize('cls', [wn.Linear, wn.Conv, wn.ConvTranspose])
def test_masks_with_other_values_are_errors(cls, mask):
  arguments = (2, 3) if cls is wn.Linear else (2, 3, (2,))
  shape = (2, 3) if cls is wn.Linear else (2, 2, 3)
  mask = jnp.ones(shape).at[0, 0].set(mask)
  with pytest.raises(ValueError, match=r'mask must hold only 0 .* and 1'):
    cls(*arguments, mask=mask, rngs=nnx.Rngs(0))


def test_boolean_masks():
  mask = jnp.asarray([[True, False, True], [True, True, False]])
  layer = wn.Linear(2, 3, mask=mask, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(layer.normalized_kernel() != 0, mask)
