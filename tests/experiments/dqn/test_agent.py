"""The pure functions of the agent by hand: targets, actions, ε, optimizer."""

import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wn
from configs import dqn
from experiments.dqn import agent
from tests import configurations

KEY = jax.random.key(10)


def frozen(spec='breakout-wn,tiny', changes=MappingProxyType({})):
  return configurations.frozen(dqn, spec, changes)


def made_up_batch(size, num_actions=4, seed=0):
  rng = np.random.default_rng(seed)
  return agent.Batch(
    frames=rng.integers(256, size=(size, 5, 84, 84)).astype(np.uint8),
    ages=np.stack([np.arange(size) % 4, (np.arange(size) + 1) % 4], axis=1).astype(np.uint8),
    a_tm1=rng.integers(num_actions, size=size).astype(np.int32),
    r_t=(np.arange(size) % 3 - 1).astype(np.float32),
    discount_t=(np.arange(size) % 5 > 0).astype(np.float32),
  )


def observations(batch):
  """s_tm1 and s_t, frame by frame."""
  result = []
  for offset in (0, 1):
    stacks = batch.frames[:, offset : offset + 4].copy()
    for i, age in enumerate(batch.ages[:, offset]):
      stacks[i, : 3 - age] = 0
    result.append(stacks)
  return result


@functools.cache
def q_function(graphdef):
  return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))


def create(config, shift=0.1):
  """A state whose target network has other parameters than the network itself.

  Both have seen what they are shown: no hidden unit is dead.
  """
  network = agent.create_network(config, 4, KEY)
  wn.data_dependent_init(network, observations(made_up_batch(40, seed=1))[0])
  graphdef, state = agent.create(config, network)
  leaves, structure = jax.tree.flatten(state)
  state = jax.tree.unflatten(structure, [jnp.copy(leaf) for leaf in leaves])
  target = jax.tree.map(lambda p: p + shift * jnp.sin(jnp.arange(p.size)).reshape(p.shape),
                        state.target_params)  # fmt: skip
  return graphdef, agent.AgentState(state.step, state.train, target)


def test_one_update_by_hand():
  """TD errors, Huber's loss and its gradient through Q(s, a) alone, then plain gradient descent."""
  config = frozen('breakout-plain,tiny')
  graphdef, state = create(config)
  batch = made_up_batch(20)
  s_tm1, s_t = observations(batch)
  q = q_function(graphdef)
  q_tm1, q_t = (np.asarray(q(p, s), np.float64) for p, s in (
    (state.train.params, s_tm1), (state.target_params, s_t)))  # fmt: skip
  target = batch.r_t + 0.9 * batch.discount_t * q_t.max(1)
  td_errors = target - q_tm1[np.arange(20), batch.a_tm1]
  assert (np.abs(td_errors) > 1).any() and (np.abs(td_errors) < 1).any()
  huber = np.where(np.abs(td_errors) < 1, td_errors**2 / 2, np.abs(td_errors) - 0.5)

  optimizer = optax.sgd(0.1)
  train = state.train.create(state.train.params, nnx.State({}), optimizer, ema=False)
  state = agent.AgentState(state.step, train, state.target_params)
  learn = functools.partial(agent.learn, graphdef=graphdef, optimizer=optimizer, discount=0.9)
  new, metrics = jax.jit(learn)(state, batch)
  assert float(metrics['loss']) == pytest.approx(huber.mean(), rel=1e-5)
  assert float(metrics['mean_q']) == pytest.approx(q_tm1.max(1).mean(), rel=1e-5)
  assert int(new.train.step) == 1

  # The gradient of −mean(clipped TD error × Q(s, a)), with the TD error a constant.
  clipped = np.clip(td_errors, -1, 1).astype(np.float32)
  chosen = lambda params: q(params, s_tm1)[np.arange(20), batch.a_tm1]
  loss = lambda params: -jnp.mean(clipped * chosen(params))
  gradients = jax.jit(jax.grad(loss))(state.train.params)
  expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.train.params, gradients)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.train.params, expected
  )
  jax.tree.map(np.testing.assert_array_equal, new.target_params, state.target_params)

  copied = agent.copy_to_target(new)
  jax.tree.map(np.testing.assert_array_equal, copied.target_params, new.train.params)


def test_epsilon_falls_in_a_straight_line():
  schedule = functools.partial(agent.epsilon, start=1.0, end=0.1, steps=1_000_000, delay=50_000)
  assert [
    schedule(step) for step in (0, 50_000, 300_000, 550_000, 1_050_000, 50_000_000)
  ] == pytest.approx([1.0, 1.0, 0.775, 0.55, 0.1, 0.1])


def test_actions_are_greedy_but_for_a_share_of_epsilon():
  graphdef, state = create(frozen())
  x = np.repeat(made_up_batch(1).frames[:, :4], 1000, axis=0)
  x[1::2] = 0  # two different observations
  params = state.train.params
  act = jax.jit(functools.partial(agent.act, graphdef=graphdef))
  greedy = np.asarray(q_function(graphdef)(params, x[:2])).argmax(1)
  np.testing.assert_array_equal(act(params, KEY, x, 0.0), np.tile(greedy, 500))
  for epsilon in (1.0, 0.4):
    actions = np.asarray(act(params, KEY, x, epsilon))
    for i in (0, 1):
      shares = np.bincount(actions[i::2], minlength=4) / 500
      expected = epsilon / 4 + (1 - epsilon) * (np.arange(4) == greedy[i])
      np.testing.assert_allclose(shares, expected, atol=5 * np.sqrt(0.25 / 500))
  assert (act(params, KEY, x, 1.0) != act(params, jax.random.key(6), x, 1.0)).any()


def test_the_paper_s_size_and_initial_weights():
  """1,685,667 parameters with three actions; N(0, 0.05²), before data-dependent initialization."""
  config = frozen('breakout-plain')
  _, state = agent.create(config, agent.create_network(config, 3, KEY))
  params = nnx.to_pure_dict(state.train.params)
  fan_in = {'conv1': 256, 'conv2': 512, 'conv3': 576, 'dense': 3136, 'out': 512}
  units = {'conv1': 32, 'conv2': 64, 'conv3': 64, 'dense': 512, 'out': 3}
  assert sum(p.size for p in jax.tree.leaves(params)) == sum(
    units[name] * (n + 1) for name, n in fan_in.items()
  )
  for name, n in fan_in.items():
    kernel = params[name]['kernel']
    assert kernel.size == units[name] * n
    assert float(kernel.std()) == pytest.approx(0.05, rel=0.1)
    assert float(jnp.abs(kernel.mean())) < 5 * 0.05 / np.sqrt(kernel.size)
    assert not params[name]['bias'].any()
  jax.tree.map(np.testing.assert_array_equal, state.train.params, state.target_params)


def test_rmsprop_takes_the_steps_of_mnih_et_al():
  """Their gradients are sums over the minibatch, with 0.01 inside the root."""
  config = frozen(
    changes={
      'optimizer.name': 'rmsprop',
      'optimizer.learning_rate': 0.00025,
      'replay.batch_size': 32,
    }
  )
  optimizer = agent.create_optimizer(config)
  params = jnp.zeros(5)
  state = optimizer.init(params)
  rng = np.random.default_rng(0)
  mean, mean_square, expected = np.zeros(5), np.zeros(5), np.zeros(5)
  for _ in range(4):
    summed = rng.normal(size=5)
    mean = 0.95 * mean + 0.05 * summed
    mean_square = 0.95 * mean_square + 0.05 * summed**2
    expected -= 0.00025 * summed / np.sqrt(mean_square - mean**2 + 0.01)
    updates, state = optimizer.update(jnp.asarray(summed / 32, jnp.float32), state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params, expected, rtol=1e-4)


# Loss of a minibatch in the first three updates.
GOLDEN = {
  'plain': (1.0931225, 0.70689255, 0.37181586),
  'wn': (1.2675432, 0.73399228, 0.71319366),
}


@pytest.mark.parametrize('param', dqn.PARAMS)
def test_first_updates_are_the_golden_ones(param):
  # Large, so that three steps tell.
  config = frozen(f'breakout-{param},tiny', {'optimizer.learning_rate': 0.01})
  graphdef, state = create(config)
  q = q_function(graphdef)(state.params, observations(made_up_batch(8))[0])
  assert (np.std(q, axis=0) > 1e-3).all()  # it sees what it is shown
  learn = jax.jit(
    functools.partial(
      agent.learn, graphdef=graphdef, optimizer=agent.create_optimizer(config), discount=0.99
    )
  )
  values = []
  for _ in range(3):
    state, metrics = learn(state, made_up_batch(8))
    values.append(float(metrics['loss']))
  np.testing.assert_allclose(
    values,
    GOLDEN[param],
    rtol=2e-5,
    err_msg='the first updates have changed; if that is intended, update GOLDEN',
  )
