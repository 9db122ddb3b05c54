"""Data-dependent initialization (§3, Eq. 5–6) on frames of the games."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import config_dict

from configs import dqn, variants
from experiments.dqn import environments
from experiments.dqn.actor_learner import ActorLearner

LAYERS = ('conv1', 'conv2', 'conv3', 'dense', 'out')


@functools.cache
def network_and_examples(spec, *, scale=1.0, seed=0):
  """A network of the paper's size as training begins, and what it was initialized on."""
  config = dqn.get_config(spec)
  config.update_from_flattened_dict(
    {'init.scale': scale, 'init.examples': 64, 'env.num_envs': 2, 'seed': seed}
  )
  config = config_dict.FrozenConfigDict(config)
  learner = ActorLearner(config)
  network = nnx.merge(learner.graphdef, learner.state.params)
  env = environments.make(config.variant.game, **config.env)
  return network, environments.random_play(env, config.init.examples, config.seed)


def pre_activations(network, observations):
  """Of each layer, as float64 [positions and examples, units]."""
  x = observations.swapaxes(1, 2).swapaxes(2, 3).astype(np.float32) / 255
  result = {}
  for name in LAYERS:
    x = x.reshape(len(x), -1) if name == 'dense' else x
    t = getattr(network, name)(x)
    result[name] = np.asarray(t, np.float64).reshape(-1, t.shape[-1])
    x = np.maximum(t, 0)
  np.testing.assert_allclose(network(observations), t, rtol=1e-4, atol=1e-4)
  return result


@pytest.mark.parametrize('parameterization', variants.PARAMETERIZATIONS)
@pytest.mark.parametrize('game', ['breakout', 'space_invaders'])
def test_pre_activations_have_mean_0_and_variance_1(game, parameterization):
  """Every unit's, in every layer; that no unit is constant on frames is part of it."""
  for name, t in pre_activations(*network_and_examples(f'{game}-{parameterization}')).items():
    np.testing.assert_allclose(t.mean(0), 0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(t.std(0), 1, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize('scale', [1.0, 0.1])
def test_both_parameterizations_start_as_the_same_function(scale):
  networks, sizes = [], []
  for parameterization in ('plain', 'wn'):
    network, examples = network_and_examples(f'breakout-{parameterization}', scale=scale)
    networks.append(network)
    sizes.append(sum(p.size for p in jax.tree.leaves(nnx.state(network, nnx.Param))))
  other = np.random.default_rng(0).integers(256, size=(3, 4, 84, 84)).astype(np.uint8)
  for x in (examples, other):
    plain, normalized = (network(x) for network in networks)
    np.testing.assert_allclose(plain, normalized, rtol=1e-5, atol=1e-5)
  assert float(np.std(networks[1](examples))) == pytest.approx(scale, rel=1e-3)
  assert sizes[1] - sizes[0] == 32 + 64 + 64 + 512 + 4  # a scale for each unit, output units too


def test_seeds_begin_with_other_weights_and_frames():
  first, other = (network_and_examples('breakout-wn', seed=seed) for seed in (0, 1))
  assert (np.asarray(first[0].conv1.kernel) != np.asarray(other[0].conv1.kernel)).any()
  assert (first[1] != other[1]).any()
