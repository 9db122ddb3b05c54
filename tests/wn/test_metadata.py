"""Metadata of `scale`, and layers that are split over the devices of a mesh.

Tests of meshes run here on one device, and some in a process of their own on four.
"""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import wn

ROOT = Path(__file__).parents[2]


def random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def close(actual, expected):
  np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-5, atol=1e-5)


def own(metadata):
  """The metadata that is not flax's."""
  names = {'hijax', 'ref', 'eager_sharding', 'mesh', 'sharding_rules'}
  return {name: value for name, value in metadata.items() if name not in names}


def make_mesh(kind):
  side = 2 if jax.device_count() >= 4 else 1
  return jax.make_mesh((side, side), ('data', 'model'), axis_types=(kind, kind))


for_each_mesh = pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])


def layer_of(library, name, metadata, **kwargs):
  argument = 'embedding_metadata' if name == 'Embed' else 'kernel_metadata'
  arguments, x = {
    'Linear': ((8, 4), random(4, 8)),
    'Conv': ((8, 4, 3), random(4, 6, 8)),
    'LinearGeneral': ((8, (4, 2)), random(4, 8)),
    'Einsum': (('bi,ohi->bho', (4, 2, 8)), random(4, 8)),
    'Embed': ((8, 4), random(4, 4)),
  }[name]
  kwargs |= {argument: metadata} if metadata is not None else {}
  return getattr(library, name)(*arguments, rngs=nnx.Rngs(0), **kwargs), x


# (layer, axes of the kernel, axes of scale)
SHARDED = [
  ('Linear', ('data', 'model'), {}, ('model',)),
  ('Linear', (None, ('data', 'model')), {}, (('data', 'model'),)),
  ('Linear', ('data',), {}, (None,)),
  ('Linear', ('data', 'model'), {'unit_axis': 0}, ('data',)),
  ('Linear', ('data', 'model'), {'unit_axis': None}, ()),
  ('Linear', ('data', 'model'), {'unit_axis': (1, 0)}, ('data', 'model')),
  ('Conv', (None, 'data', 'model'), {}, ('model',)),
  ('LinearGeneral', ('data', 'model', None), {}, ('model', None)),
  ('Einsum', ('model', None, 'data'), {}, ('model', None)),
  ('Embed', ('model', 'data'), {}, ('model',)),
]


@pytest.mark.parametrize(('name', 'axes', 'kwargs', 'expected'), SHARDED)
def test_scale_has_the_axis_names_of_its_own_axes(name, axes, kwargs, expected):
  metadata = dict(out_sharding=axes, eager_sharding=False, note='mine')
  layer, _ = layer_of(wn, name, metadata, **kwargs)
  assert own(layer.scale.get_metadata()) == dict(out_sharding=expected, note='mine')
  plain, _ = layer_of(nnx, name, metadata)
  unfolded = wn.unfold(plain, **kwargs)
  assert own(unfolded.scale.get_metadata()) == dict(out_sharding=expected, note='mine')


@for_each_mesh
@pytest.mark.parametrize(('name', 'axes', 'kwargs', 'expected'), [SHARDED[i] for i in (0, 5, 9)])
def test_mesh_splits_the_scales_with_the_kernel(kind, name, axes, kwargs, expected):
  mesh = make_mesh(kind)
  plain, x = layer_of(nnx, name, None)
  forward = lambda layer: layer.attend(x) if name == 'Embed' else layer(x)
  y = forward(plain)
  with jax.set_mesh(mesh):
    layer, _ = layer_of(wn, name, dict(out_sharding=axes, mesh=mesh), **kwargs)
    kernel = layer.embedding if name == 'Embed' else layer.kernel
    padded = (*axes, *[None] * (kernel.ndim - len(axes)))
    assert kernel[...].sharding == jax.NamedSharding(mesh, jax.P(*padded)) or len(axes) == 1
    spec = tuple(layer.scale[...].sharding.spec)
    assert (*spec, *[None] * (layer.scale.ndim - len(spec))) == expected
    close(forward(layer), y)
    close(forward(wn.fold(layer)), y)
    close(forward(wn.unfold(wn.fold(layer), **kwargs)), y)


WAYS = {
  'names': lambda mesh: dict(out_sharding=('data', 'model'), mesh=mesh),
  'spec': lambda mesh: dict(out_sharding=jax.P('data', 'model'), mesh=mesh),
  'rules': lambda mesh: dict(
    out_sharding=('in', 'out'), mesh=mesh, sharding_rules=(('in', 'data'), ('out', 'model'))
  ),
  'sharding': lambda mesh: dict(
    out_sharding=jax.NamedSharding(mesh, jax.P('data', 'model')),
  ),
}


@for_each_mesh
@pytest.mark.parametrize(
  ('way', 'use_mesh'), [('names', True), ('spec', False), ('rules', True), ('sharding', False)]
)
def test_every_way_to_name_a_mesh_that_nnx_has(kind, way, use_mesh):
  mesh = make_mesh(kind)
  with jax.set_mesh(mesh) if use_mesh else contextlib.nullcontext():
    plain, x = layer_of(nnx, 'Linear', WAYS[way](mesh))
    layer, _ = layer_of(wn, 'Linear', WAYS[way](mesh))
    assert layer.kernel[...].sharding == plain.kernel[...].sharding
    assert layer.scale[...].sharding.is_equivalent_to(jax.NamedSharding(mesh, jax.P('model')), 1)
    close(layer(x), plain(x))
    close(wn.unfold(plain).scale, layer.scale)
    assert wn.unfold(plain).scale[...].sharding == layer.scale[...].sharding


@for_each_mesh
def test_mesh_keeps_shardings_when_weights_are_set_and_trained(kind):
  mesh = make_mesh(kind)
  with jax.set_mesh(mesh):
    metadata = dict(out_sharding=('data', 'model'), mesh=mesh)
    layer, x = layer_of(wn, 'Linear', metadata, kernel_init=nnx.initializers.zeros)
    shardings = layer.kernel[...].sharding, layer.scale[...].sharding
    w = random(8, 4, seed=2)
    layer.set_weight(w)
    layer.set_scale(2 * jnp.linalg.norm(w, axis=0))
    close(layer.normalized_kernel(), 2 * w)
    assert layer.kernel[...].sharding.is_equivalent_to(shardings[0], 2)
    assert layer.scale[...].sharding.is_equivalent_to(shardings[1], 1)

    @nnx.jit
    def step(layer, x):
      gradients = nnx.grad(lambda layer: jnp.mean(layer(x) ** 2))(layer)
      update = lambda p, g: p - 0.1 * g
      nnx.update(layer, jax.tree.map(update, nnx.state(layer, nnx.Param), gradients))

    step(layer, x)
    assert layer.kernel[...].sharding.is_equivalent_to(shardings[0], 2)
    assert layer.scale[...].sharding.is_equivalent_to(shardings[1], 1)
    plain = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    plain.kernel[...] = jnp.asarray(np.asarray(wn.fold(layer).kernel))
    plain.bias[...] = jnp.asarray(np.asarray(layer.bias))
    close(layer(x), plain(x))


@for_each_mesh
def test_mesh_with_masks_log_scales_and_the_wrapper(kind):
  mesh = make_mesh(kind)
  metadata = dict(out_sharding=('data', 'model'), mesh=mesh)
  mask = jnp.ones((8, 4)).at[0, 0].set(0)
  with jax.set_mesh(mesh):
    for kwargs in (dict(mask=mask), dict(log_scale=True), dict(mask=mask, log_scale=3)):
      layer, x = layer_of(wn, 'Linear', metadata, **kwargs)
      expected, _ = layer_of(wn, 'Linear', None, **kwargs)
      close(layer(x), expected(x))
    plain, x = layer_of(nnx, 'Linear', metadata)
    wrapped = wn.WeightNorm(plain, 'kernel')
    assert tuple(wrapped.scales['kernel'].get_metadata('out_sharding')) == ('model',)
    close(wrapped(x), plain(x))


@for_each_mesh
def test_mesh_with_a_stack_of_layers(kind):
  mesh = make_mesh(kind)
  metadata = dict(out_sharding=('data', 'model'), mesh=mesh)
  axes = {nnx.PARTITION_NAME: None}

  with jax.set_mesh(mesh):
    make = lambda key: wn.Linear(8, 4, kernel_metadata=metadata, rngs=nnx.Rngs(key))
    stack = nnx.vmap(make, transform_metadata=axes)(jax.random.split(jax.random.key(0), 3))
    assert stack.scale.get_metadata('out_sharding') == (None, 'model')
    again = wn.unfold(wn.fold(stack))
    assert again.scale.get_metadata('out_sharding') == (None, 'model')
    close(again.scale, stack.scale)


@pytest.mark.skipif('_WN_FOUR_DEVICES' in os.environ, reason='is itself that process')
def test_on_four_devices():
  chosen = 'mesh_splits or mesh_keeps'
  environment = os.environ | {
    '_WN_FOUR_DEVICES': '1',
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
  }
  command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__, '-k', chosen]
  result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr
  assert ' passed' in result.stdout


# Without a mesh.


def test_scale_metadata_overrides_that_of_the_kernel():
  layer = wn.Linear(
    8,
    4,
    kernel_metadata=dict(out_sharding=('a', 'b'), eager_sharding=False, note='kernel', decay=True),
    scale_metadata=dict(out_sharding=(None,), decay=False, own=1),
    rngs=nnx.Rngs(0),
  )
  expected = dict(out_sharding=(None,), note='kernel', decay=False, own=1)
  assert own(layer.scale.get_metadata()) == expected
  assert own(layer.kernel.get_metadata())['decay'] is True
  assert own(nnx.clone(layer).scale.get_metadata()) == expected


def test_scale_metadata_of_the_wrapper():
  layer = wn.WeightNorm(
    nnx.Linear(8, 4, kernel_metadata={'note': 'kernel'}, rngs=nnx.Rngs(0)),
    'kernel',
    scale_metadata={'decay': False},
  )
  assert own(layer.scales['kernel'].get_metadata()) == {'note': 'kernel', 'decay': False}


def test_metadata_chooses_what_an_optimizer_decays():
  layer = wn.Linear(8, 4, scale_metadata={'decay': False}, rngs=nnx.Rngs(0))
  decayed = lambda path, variable: variable.get_metadata().get('decay', True)
  names = [path[-1] for path in nnx.to_flat_state(nnx.state(layer, decayed)).paths]
  assert sorted(names) == ['bias', 'kernel']


def test_hooks_of_the_kernel_are_not_those_of_the_scale():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # hooks are deprecated
    double = nnx.with_metadata(
      nnx.initializers.normal(), on_get_value=lambda variable, value: value * jnp.full((8, 4), 2.0)
    )
    plain = nnx.Linear(8, 4, kernel_init=double, rngs=nnx.Rngs(0))
    layer = wn.Linear(8, 4, kernel_init=double, rngs=nnx.Rngs(0))
    x = random(4, 8)
    close(layer(x), plain(x))


class Frozen(nnx.Variable):
  pass


def frozen(layer):
  layer.kernel, layer.bias = Frozen(layer.kernel[...], mine=1), Frozen(layer.bias[...])
  return layer


@pytest.mark.parametrize('hijax', [False, True])
def test_a_frozen_layer_stays_frozen(hijax):
  with nnx.var_defaults(hijax=hijax):
    plain, x = frozen(nnx.Linear(8, 4, rngs=nnx.Rngs(0))), random(4, 8)
    layer = wn.unfold(plain)
    wrapped = wn.WeightNorm(frozen(nnx.Linear(8, 4, rngs=nnx.Rngs(0))), 'kernel')
    assert layer.scale.get_metadata('mine') == 1
    for model, scale in ((layer, layer.scale), (wrapped, wrapped.scales['kernel'])):
      assert isinstance(scale, Frozen)
      assert not jax.tree.leaves(nnx.state(model, nnx.Param))
      close(model(x), plain(x))
    folded = wn.fold(layer)
    assert nnx.graphdef(folded) == nnx.graphdef(plain)


def test_other_kinds_of_parameters_get_a_scale_of_their_kind():
  class Mine(nnx.Param):
    pass

  layer = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
  layer.kernel = Mine(layer.kernel[...])
  assert type(wn.unfold(layer).scale) is Mine
