"""Autoregressive flow: Jacobians by autodiff, inverses, masked layers against NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

import wn
from experiments.training.layers import Layers
from experiments.vae.autoregressive import autoregressive_mask
from experiments.vae.iaf import MADE, Flow, iaf_step

VARIANTS = ('plain', 'wn')
CONTEXT = 2
WIDTH = 7
BATCH = 32
# (depth, features, width): widths that are and that are not a multiple of the features.
NETWORKS = [
  *((1, features, width) for features, width in ((1, WIDTH), (2, WIDTH), (5, 5), (5, WIDTH))),
  *((2, features, width) for features, width in ((2, WIDTH), (5, 5), (5, WIDTH))),
]


def perturb(module, seed=0, size=0.3):
  """Adds noise to every parameter, those that a mask removes included."""
  rng = np.random.default_rng(seed)
  params = nnx.state(module, nnx.Param)
  noisy = lambda p: jnp.asarray(np.asarray(p) + size * rng.normal(size=p.shape), p.dtype)
  nnx.update(module, jax.tree.map(noisy, params))


def inputs(features, seed=1):
  rng = np.random.default_rng(seed)
  draw = lambda size: jnp.asarray(rng.normal(size=(BATCH, size)), jnp.float32)
  return draw(features), draw(CONTEXT)


def make_made(variant, depth, features, width, seed=0):
  """With generic weights."""
  layers = Layers(variant, init_std=0.5, rngs=nnx.Rngs(seed))
  made = MADE(features, CONTEXT, width=width, depth=depth, layers=layers)
  perturb(made, seed)
  return made


def make_flow(variant, steps, features, *, depth=1, initialized=False, perturbed=True, seed=0):
  """With generic weights, before or after data-dependent initialization."""
  layers = Layers(variant, init_std=0.5, rngs=nnx.Rngs(seed))
  flow = Flow(steps, features, CONTEXT, width=WIDTH, depth=depth, layers=layers)
  if initialized:
    wn.data_dependent_init(flow, *inputs(features, seed=seed))
  if perturbed:
    perturb(flow, seed)
  return flow


def compiled(function):
  """As `nnx.jit`, for functions that read a module, with little optimization: it is run once."""

  @functools.partial(
    jax.jit, static_argnums=0, compiler_options={'xla_backend_optimization_level': 0}
  )
  def run(graphdef, state, *args):
    return function(nnx.merge(graphdef, state), *args)

  return lambda module, *args: run(*nnx.split(module), *args)


@compiled
def forward(module, z, context):
  return module(z, context)


@compiled
def forward_and_jacobians(module, z, context):
  """Outputs (a, b) and, for every example, ((∂a/∂z, ∂a/∂context), (∂b/∂z, ∂b/∂context))."""
  of_one = lambda z, context: tuple(out[0] for out in module(z[None], context[None]))
  return module(z, context), jax.vmap(jax.jacrev(of_one, argnums=(0, 1)))(z, context)


def jacobians(module, z, context):
  return forward_and_jacobians(module, z, context)[1]


def float64(*arrays):
  return [np.asarray(array).astype(np.float64) for array in arrays]


# --- MADE ---


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize(('depth', 'features', 'width'), NETWORKS)
def test_jacobian_is_strictly_lower_triangular_and_full_below(variant, depth, features, width):
  z, context = inputs(features)
  allowed = np.tril(np.ones((features, features), bool), -1)
  for by_z, by_context in jacobians(make_made(variant, depth, features, width), z, context):
    by_z, by_context = np.asarray(by_z), np.asarray(by_context)
    assert not by_z[:, ~allowed].any()
    assert by_z.any(axis=0)[allowed].all()
    # Every element sees the whole context, the first one included, which sees nothing else.
    assert by_context.shape == (BATCH, features, CONTEXT)
    assert by_context.any(axis=0).all()


@pytest.mark.parametrize('size', [1.0, -1e6])
@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('variant', VARIANTS)
def test_an_element_is_untouched_by_itself_and_what_follows(variant, depth, size):
  made = make_made(variant, depth, 5, WIDTH)
  z, context = inputs(5)
  before = forward(made, z, context)
  for i in range(5):
    after = forward(made, z.at[:, i:].add(size), context)
    for a, b in zip(before, after):
      np.testing.assert_array_equal(a[:, : i + 1], b[:, : i + 1])
      assert (a != b)[:, i + 1 :].any(axis=0).all()


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('variant', VARIANTS)
def test_first_element_sees_the_context_through_units_that_see_no_z(variant, depth):
  made = make_made(variant, depth, 5, WIDTH)
  blind = ~np.asarray(made.hidden[0].mask).astype(bool).any(axis=0)
  assert blind.any()
  z, context = inputs(5)
  (mean_by_z, mean_by_context), (scale_by_z, scale_by_context) = jacobians(made, z, context)
  for by_z, by_context in ((mean_by_z, mean_by_context), (scale_by_z, scale_by_context)):
    assert not by_z[:, 0].any()
    assert by_context[:, 0].any(axis=0).all()
  # Without the bridge from the context to those units, neither does the first element.
  kernel = made.context.scale if variant == 'wn' else made.context.kernel
  kernel[...] = kernel[...] * jnp.where(blind, 0.0, 1.0).reshape((1,) * (kernel.ndim - 1) + (-1,))
  for _, by_context in jacobians(made, z, context):
    assert not by_context[:, 0].any()


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('variant', VARIANTS)
def test_gradients_of_masked_weights_are_zero_and_all_others_reached(variant, depth):
  made = make_made(variant, depth, 5, WIDTH)
  z, context = inputs(5)

  @compiled
  def gradients_of(made, z, context):
    def loss(made):
      m, s = made(z, context)
      return jnp.sum(jnp.sin(3 * m + jnp.arange(5.0)[None])) + jnp.sum(jnp.cos(2 * s))

    return nnx.grad(loss)(made)

  gradients = gradients_of(made, z, context)
  for name in (*(('hidden', i) for i in range(depth)), ('mean',), ('log_scale',)):
    layer, gradient = made, gradients
    for key in name:
      layer = layer[key] if isinstance(key, int) else getattr(layer, key)
      gradient = gradient[key]
    mask = np.asarray(layer.mask).astype(bool)
    by_kernel = np.asarray(gradient['kernel'][...])
    assert not by_kernel[~mask].any()
    assert np.isfinite(by_kernel).all()
    # A weight-normalized unit of one weight has no direction to learn.
    reachable = mask & (mask.sum(axis=0) > 1) if variant == 'wn' else mask
    assert by_kernel[reachable].all()


# --- one step and the flow ---


@pytest.mark.parametrize('shape', [(4,), (4, 3), (2, 3, 3, 2)])
def test_step_by_hand(shape):
  rng = np.random.default_rng(3)
  z, m, s = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
  new_z, change = iaf_step(*map(jnp.asarray, (z, m, s)))
  z, m, s = float64(z, m, s)
  np.testing.assert_allclose(new_z, (z - m) / np.exp(s), rtol=1e-5, atol=1e-6)
  assert change.shape == shape[:1]
  np.testing.assert_allclose(
    change, [np.log(np.prod(np.exp(s_i))) for s_i in s], rtol=1e-5, atol=1e-5
  )


all_flows = pytest.mark.parametrize(
  ('variant', 'steps', 'features', 'depth', 'initialized'),
  [
    (variant, *rest)
    for variant in VARIANTS
    for rest in ((1, 5, 1, False), (2, 1, 1, True), (2, 5, 1, True), (3, 2, 2, False))
  ],
)


@all_flows
def test_change_of_log_q_is_minus_the_log_determinant(variant, steps, features, depth, initialized):
  flow = make_flow(variant, steps, features, depth=depth, initialized=initialized)
  z, context = inputs(features)
  (new_z, change), ((by_z, _), _) = forward_and_jacobians(flow, z, context)
  assert new_z.shape == z.shape
  assert change.shape == (BATCH,)
  sign, log_determinant = np.linalg.slogdet(float64(by_z)[0])
  np.testing.assert_allclose(change, -log_determinant, rtol=1e-4, atol=1e-5)
  assert np.abs(log_determinant).max() > 1e-2  # there is something to see
  # A reversal of n elements is n//2 swaps; the steps themselves keep the orientation.
  np.testing.assert_array_equal(sign, (-1.0) ** ((steps - 1) * (features // 2)))


@pytest.mark.parametrize('variant', VARIANTS)
def test_one_step_is_triangular_and_two_mix_all(variant):
  """After the reversal, the first element of the second step is the last one of the first."""
  z, context = inputs(5)
  by_z = {}
  for steps in (1, 2):
    (by_z[steps], _), _ = jacobians(make_flow(variant, steps, 5), z, context)
  assert not by_z[1][:, *np.triu_indices(5, 1)].any()
  assert by_z[1].any(axis=0)[np.tril_indices(5)].all()
  assert by_z[2].any(axis=0).all()
  # m and s of the first element of a step depend on the context only.
  first = np.asarray(by_z[2])[:, 0]
  np.testing.assert_allclose(
    first / first[:, -1:], np.asarray(by_z[1])[:, -1] / np.asarray(by_z[1])[:, -1, -1:], rtol=1e-3
  )


def inverse(flow, new_z, context):
  """z, and the sum of all s, float64; element by element, as each needs those before it."""
  steps = list(flow.steps)
  z = float64(new_z)[0]
  total = 0
  for i, step in reversed(list(enumerate(steps))):
    target, z = z, np.zeros_like(z)
    for j in range(z.shape[1]):
      m, s = float64(*forward(step, jnp.asarray(z, jnp.float32), context))
      z[:, j] = target[:, j] * np.exp(s[:, j]) + m[:, j]
    total = total + s.sum(axis=1)
    if i:
      z = z[:, ::-1]
  return z, total


@all_flows
def test_flow_is_inverted_element_by_element(variant, steps, features, depth, initialized):
  flow = make_flow(variant, steps, features, depth=depth, initialized=initialized)
  z, context = inputs(features)
  (new_z, change), _ = forward_and_jacobians(flow, z, context)
  assert np.abs(new_z - z).max() > 1e-2
  recovered, total = inverse(flow, new_z, context)
  np.testing.assert_allclose(recovered, z, rtol=1e-4, atol=2e-5)
  np.testing.assert_allclose(total, change, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_flow_is_inverted_by_fixed_point_iteration(variant):
  """z ← z' exp(s(z)) + m(z) is exact after as many rounds as there are elements."""
  made = make_made(variant, 2, 5, WIDTH)
  z, context = inputs(5)
  target, _ = iaf_step(z, *forward(made, z, context))
  guess = jnp.full_like(z, 10.0)
  for right in range(5):
    m, s = forward(made, guess, context)
    guess = target * jnp.exp(s) + m
    np.testing.assert_allclose(guess[:, : right + 1], z[:, : right + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_flow_is_its_steps_with_the_order_reversed_between_them(variant):
  flow = make_flow(variant, 3, 5, depth=2)
  z, context = inputs(5)
  expected, log_q = float64(z)[0], 0
  for i, step in enumerate(flow.steps):
    if i:
      expected = expected[:, ::-1]
    m, s = float64(*forward(step, jnp.asarray(expected, jnp.float32), context))
    expected, log_q = (expected - m) / np.exp(s), log_q + s.sum(axis=1)
  new_z, change = forward(flow, z, context)
  np.testing.assert_allclose(new_z, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(change, log_q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_flow_of_one_element_makes_a_gaussian(variant):
  """m and s then depend on the context only, so z' has a Gaussian density in closed form."""
  flow = make_flow(variant, 2, 1, depth=2)
  z, context = inputs(1)
  new_z, change = forward(flow, z, context)
  mean, log_std = np.zeros((BATCH, 1)), np.zeros((BATCH, 1))
  for step in flow.steps:
    m, s = float64(*forward(step, jnp.zeros_like(z), context))
    mean, log_std = (mean - m) / np.exp(s), log_std - s
  expected = scipy.stats.norm.logpdf(float64(new_z)[0], mean, np.exp(log_std))
  actual = scipy.stats.norm.logpdf(float64(z)[0]) + np.asarray(change)[:, None]
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_density_of_a_flow_integrates_to_one(variant):
  """q(z') over a grid of z', through the inverse."""
  flow = make_flow(variant, 2, 2, depth=2)
  line = np.linspace(-9, 9, 181)
  grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), jnp.float32)
  context = jnp.broadcast_to(inputs(2)[1][:1], (len(grid), CONTEXT))
  z, _ = inverse(flow, grid, context)
  new_z, change = forward(flow, jnp.asarray(z, jnp.float32), context)
  np.testing.assert_allclose(new_z, grid, atol=1e-3)
  log_q = scipy.stats.norm.logpdf(z).sum(axis=1) + np.asarray(change)
  density = np.exp(log_q).reshape(len(line), -1)
  assert max(density[[0, -1]].max(), density[:, [0, -1]].max()) < 1e-6  # the grid holds it all
  np.testing.assert_allclose(density.sum() * (line[1] - line[0]) ** 2, 1, atol=1e-4)


# --- data-dependent initialization (no warnings: they are errors here) ---


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize(('steps', 'features', 'depth'), [(1, 1, 1), (3, 5, 2)])
def test_data_dependent_init_normalizes_what_each_step_computes(variant, steps, features, depth):
  z, context = inputs(features, seed=0)
  flow = make_flow(variant, steps, features, depth=depth, initialized=True, perturbed=False)
  for i, step in enumerate(flow.steps):
    if i:
      z = z[:, ::-1]
    m, s = forward(step, z, context)
    for out in float64(m, s):  # a tenth of what has mean 0 and standard deviation 1
      np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
      np.testing.assert_allclose(out.std(axis=0), 0.1, rtol=1e-4)
    z, _ = iaf_step(z, m, s)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize(('steps', 'features', 'depth'), [(1, 1, 1), (2, 5, 2)])
def test_everything_is_finite_after_data_dependent_init(variant, steps, features, depth):
  @compiled
  def values_and_gradients(flow, z, context):
    def sum_of_log_weights(flow, z, context):
      new_z, change = flow(z, context)
      return -jnp.sum(0.5 * jnp.sum(jnp.square(new_z), axis=1) + change)

    return flow(z, context), nnx.grad(sum_of_log_weights, argnums=(0, 1, 2))(flow, z, context)

  flow = make_flow(variant, steps, features, depth=depth, initialized=True, perturbed=False)
  z, context = inputs(features, seed=0)
  for _ in range(2):
    for tree in (nnx.state(flow), values_and_gradients(flow, z, context)):
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
    perturb(flow)


@pytest.mark.parametrize('initialized', [False, True])
@pytest.mark.parametrize('features', [1, 5])
def test_both_parameterizations_begin_as_the_same_function(features, initialized):
  z, context = inputs(features)
  (plain_z, plain_change), (wn_z, wn_change) = (
    forward(
      make_flow(variant, 2, features, depth=2, initialized=initialized, perturbed=False), z, context
    )
    for variant in VARIANTS
  )
  np.testing.assert_allclose(plain_z, wn_z, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(plain_change, wn_change, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_state_of_a_flow_can_be_donated_and_masks_are_not_trained(variant):
  flow = make_flow(variant, 2, 5, depth=2)
  z, context = inputs(5)
  expected = np.asarray(forward(flow, z, context)[0])
  names = [path[-1] for path, _ in nnx.to_flat_state(nnx.state(flow, nnx.Param))]
  assert set(names) == {'kernel', 'bias', 'scale'} - ({'scale'} if variant == 'plain' else set())
  graphdef, state = nnx.split(flow)
  state = jax.jit(lambda state: jax.tree.map(lambda x: x * 1, state), donate_argnums=0)(state)
  np.testing.assert_array_equal(forward(nnx.merge(graphdef, state), z, context)[0], expected)


# --- layers ---


def masked_layer(variant, mask, seed=0):
  layers = Layers(variant, init_std=0.5, rngs=nnx.Rngs(seed))
  layer = layers.masked_linear(*mask.shape, mask=jnp.asarray(mask))
  perturb(layer, seed)
  return layer


def random_mask(seed=5):
  """[5, 7]; one unit sees nothing and one everything."""
  mask = (np.random.default_rng(seed).random((5, 7)) < 0.5).astype(np.float32)
  mask[:, 0], mask[:, 1] = 0, 1
  return mask


def dense_weight(layer, mask):
  """w in float64, from the layer's parameters."""
  (kernel,) = float64(layer.kernel[...])
  kernel = kernel * mask
  if not isinstance(layer, wn.Linear):
    return kernel
  norm = np.linalg.norm(kernel, axis=0)
  return kernel * float64(layer.scale[...])[0] / np.where(norm == 0, 1, norm)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('batch_shape', [(), (8,), (2, 3)])
def test_masked_linear_is_a_dense_product_with_the_masked_kernel(variant, batch_shape):
  mask = random_mask()
  layer = masked_layer(variant, mask)
  x = np.random.default_rng(6).normal(size=(*batch_shape, 5)).astype(np.float32)
  y = layer(jnp.asarray(x))
  assert y.shape == (*batch_shape, 7)
  expected = x.astype(np.float64) @ dense_weight(layer, mask) + float64(layer.bias[...])[0]
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_masked_linear_gives_no_gradient_to_masked_weights(variant):
  mask = random_mask()
  layer = masked_layer(variant, mask)
  x = np.random.default_rng(6).normal(size=(8, 5)).astype(np.float32)
  weights = np.random.default_rng(7).normal(size=(8, 7)).astype(np.float32)
  gradients = nnx.grad(lambda layer: jnp.sum(layer(jnp.asarray(x)) * jnp.asarray(weights)))(layer)
  by_kernel = np.asarray(gradients['kernel'][...])
  assert not by_kernel[mask == 0].any()
  assert by_kernel[mask == 1].all()
  if variant == 'plain':
    expected = mask * (x.astype(np.float64).T @ weights)
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(gradients['bias'][...], weights.sum(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_masked_weights_have_no_effect(variant):
  mask = random_mask()
  layer = masked_layer(variant, mask)
  x = jnp.asarray(np.random.default_rng(6).normal(size=(8, 5)), jnp.float32)
  before = np.asarray(layer(x))
  layer.kernel[...] = layer.kernel[...] + 100.0 * (1 - jnp.asarray(mask))
  np.testing.assert_array_equal(before, layer(x))


def test_masked_linear_takes_the_arguments_of_nnx_linear():
  """As its docstring says."""
  mask = random_mask()
  x = jnp.ones((8, 5))
  layer = wn.MaskedLinear(5, 7, mask=jnp.asarray(mask), use_bias=False, rngs=nnx.Rngs(0))
  np.testing.assert_allclose(
    layer(x), np.ones((8, 5)) @ dense_weight(layer, mask), rtol=1e-5, atol=1e-6
  )
  layer = wn.MaskedLinear(5, 7, mask=jnp.asarray(mask), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  assert layer(x).dtype == nnx.Linear(5, 7, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(x).dtype


@pytest.mark.parametrize(
  ('variant', 'classes'),
  [('plain', (nnx.Linear, wn.MaskedLinear, nnx.Conv)), ('wn', (wn.Linear, wn.Linear, wn.Conv))],
)
def test_layers_are_of_the_parameterization_and_scale_that_was_asked_for(variant, classes):
  layers = Layers(variant, init_std=0.05, rngs=nnx.Rngs(0))
  made = (
    layers.linear(100, 80),
    layers.masked_linear(100, 80, mask=jnp.ones((100, 80))),
    layers.conv(30, 30, (3, 3)),
  )
  assert tuple(map(type, made)) == classes
  for layer in made:
    np.testing.assert_allclose(np.std(layer.kernel[...]), 0.05, rtol=0.05)
    np.testing.assert_allclose(np.mean(layer.kernel[...]), 0, atol=0.003)
  assert not np.array_equal(made[0].kernel[...], made[1].kernel[...])


def test_autoregressive_mask_compares_degrees():
  ins, outs = np.array([1, 2, 3, 2]), np.array([0, 3, 2, 1, 1])
  mask = autoregressive_mask(ins, outs)
  assert mask.dtype == np.float32
  assert mask.shape == (4, 5)
  for (i, a), (j, b) in itertools.product(enumerate(ins), enumerate(outs)):
    assert mask[i, j] == (1 if b >= a else 0)
