"""Rounding: 100 steps of each experiment in float32 against float64, and in bfloat16.

Every run begins with the same parameters and takes the same data and random numbers.
"""

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wn
from configs import cifar, dqn, draw, vae
from experiments.cifar import train as cifar_train
from experiments.dqn import agent
from experiments.dqn.replay import Replay
from experiments.draw import train as draw_train
from experiments.training import data
from experiments.training.state import TrainState
from experiments.vae import train as vae_train
from tests import configurations

STEPS = 100
KEY = jax.random.key(5)
QUICK = {'xla_backend_optimization_level': 0}  # to compile takes longer than 100 small steps


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An experiment in its tiny size.

  Attributes:
    create: dtype → network as it begins.
    new_state: (params, other state of the network) → state.
    step: (state, *batch, graphdef=...) → (state, metrics).
    batches: of the steps.
    metric: name of what is minimized.
  """

  create: Callable[[str], nnx.Module]
  new_state: Callable[[nnx.State, nnx.State], Any]
  step: Callable[..., Any]
  batches: list[tuple]
  metric: str


def config_of(module, spec, dtype='float32'):
  changes = {'layers.dtype' if module is vae else 'model.dtype': dtype}
  if module is cifar:
    # Six layers. With all ten a maximum of max pooling falls on another pixel within the first
    # tens of steps, and runs go apart however small the first difference is.
    changes['model.block_depth'] = 1
  if spec.startswith('cifar10'):
    changes['batch_size'] = 16
  return configurations.frozen(module, spec, changes)


def on_images(train_lib, config, create, optimizer, metric, *arrays, **values):
  rng = np.random.default_rng(0)
  choose = lambda: rng.choice(len(arrays[0]), config.batch_size, replace=False)
  return Experiment(
    create=create,
    new_state=lambda *states: TrainState.create(*states, optimizer, ema=train_lib is vae_train),
    step=functools.partial(
      train_lib.train_step, optimizer=optimizer, with_diagnostics=False, **values
    ),
    batches=[(choose(), *arrays, KEY) for _ in range(STEPS)],
    metric=metric,
  )


def cifar_experiment(spec):
  config, digits = config_of(cifar, spec), data.load('digits')
  images, _ = cifar_train.preprocessing.prepare(digits, whiten=False, zca_eps=1, upscale=2)
  keep = config.data.train_examples
  images, labels = images[:keep], digits.train.labels[:keep]

  def create(dtype):
    model = cifar_train.create_model(config_of(cifar, spec, dtype), images.shape[1:], 10, KEY)
    if config.variant.parameterization != 'bn':
      cifar_train.initialize(model, images[: config.init.examples], KEY, config.init.scale)
    return model

  # Three epochs, with their schedules of the learning rate and β1.
  optimizer = cifar_train.create_optimizer(config, steps_per_epoch=34)
  return on_images(
    cifar_train, config, create, optimizer, 'train/loss', images, labels, ema_decay=0.0
  )


def vae_experiment(spec):
  config = config_of(vae, spec)
  if config.variant.dataset == 'digits':
    images = data.load('digits').train.images[: config.data.train_examples]
  else:
    # As small as can be: XLA:CPU has no fast convolution of float64.
    images = squares(100, 4, 4)[..., None] + squares(300, 4, 4).reshape(100, 16, 16, 3) // 8

  def create(dtype):
    model = vae_train.create_model(config_of(vae, spec, dtype), images.shape[1:], KEY)
    vae_train.initialize(
      model,
      images[: config.init.examples],
      KEY,
      dataset=config.variant.dataset,
      scale=config.init.scale,
      flow_scale=config.init.flow_scale,
    )
    return model

  optimizer = vae_train.create_optimizer(config)
  return on_images(
    vae_train,
    config,
    create,
    optimizer,
    'train/nll_bound',
    images,
    dataset=config.variant.dataset,
    free_bits=config.free_bits,
    ema_decay=0.9,
  )


def draw_experiment(spec):
  config = config_of(draw, spec)
  images = data.load('digits').train.images[: config.data.train_examples]
  create = lambda dtype: draw_train.create_model(config_of(draw, spec, dtype), (8, 8, 1), KEY)
  optimizer = draw_train.create_optimizer(config)
  return on_images(draw_train, config, create, optimizer, 'train/nll_bound', images)


def dqn_experiment(spec):
  config = config_of(dqn, spec)
  optimizer = agent.create_optimizer(config)

  def create(dtype):
    network = agent.create_network(config_of(dqn, spec, dtype), 4, KEY)
    examples = squares(4 * config.init.examples, 7, 12).reshape(-1, 4, 84, 84)
    wn.data_dependent_init(network, examples, init_scale=config.init.scale)
    return network

  def new_state(params, model_state):
    train = TrainState.create(params, model_state, optimizer, ema=False)
    return agent.AgentState(jnp.zeros((), jnp.int32), train, params)

  def step(state, batch, *, graphdef):
    is_due = state.train.step % config.learning.target_period == 0
    copied = agent.copy_to_target(state)
    state = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), copied, state)
    return agent.learn(
      state, batch, graphdef=graphdef, optimizer=optimizer, discount=config.learning.discount
    )

  n = config.env.num_envs
  replay, rng = Replay(100, n), np.random.default_rng(1)
  for frames in squares(100 * n, 7, 12).reshape(100, n, 84, 84):
    replay.add(frames, np.full(n, replay.count), rng.integers(4, size=n),
               rng.integers(-1, 2, size=n), rng.random(n) < 0.1, np.zeros(n, bool))  # fmt: skip
  batches = [replay.sample(rng, 1, config.replay.batch_size) for _ in range(STEPS)]
  batches = [(agent.Batch(*(array[0] for array in batch)),) for batch in batches]
  return Experiment(create, new_state, step, batches, 'loss')


def squares(count, squares_a_side, side):
  """[count, …, …] uint8 images of random gray squares, `side` pixels wide."""
  gray = np.random.default_rng(count).integers(128, size=(count, squares_a_side, squares_a_side))
  return np.kron(gray, np.ones((1, side, side))).astype(np.uint8)


EXPERIMENTS = {
  'cifar-wn_mean_bn': (cifar_experiment, 'wn_mean_bn,tiny'),
  'cifar-bn': (cifar_experiment, 'bn,tiny'),
  'vae-conv': (vae_experiment, 'digits-iaf-wn,tiny'),
  'vae-resnet': (vae_experiment, 'cifar10-iaf-wn,tiny'),
  'draw': (draw_experiment, 'wn,tiny'),
  'dqn': (dqn_experiment, 'breakout-wn,tiny'),
}


@functools.cache
def make(name):
  experiment, spec = EXPERIMENTS[name]
  return experiment(spec)


def begin(name):
  """Parameters, and other state of the network, before the first step."""
  return nnx.split(make(name).create('float32'), nnx.Param, ...)[1:]


def made(name, transform, create):
  """What `create` returns, under a transform where its network can be made under one.

  `nnx.Conv` counts a mask to its definition if it is traced, and else to its state.
  """
  return create() if name == 'vae-resnet' else transform(create)


def new_state(name, dtype, states):
  """In float64 parameters, statistics and moments are float64 as well."""
  if dtype == 'float64':
    to_float64 = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    states = jax.tree.map(to_float64, states)
  return make(name).new_state(*states)


@functools.cache
def lower(name, dtype):
  """The training step with layers of a dtype, not yet compiled."""
  experiment = make(name)
  states = made(name, jax.eval_shape, lambda: begin(name))
  with jax.enable_x64(dtype == 'float64'):
    state = jax.eval_shape(functools.partial(new_state, name, dtype), states)
    graphdef, _ = nnx.split(made(name, nnx.eval_shape, lambda: experiment.create(dtype)))
    step = jax.jit(functools.partial(experiment.step, graphdef=graphdef))
    return step.lower(state, *experiment.batches[0])


@functools.cache
def train(name, dtype):
  """Losses [STEPS], and all parameters before and after the steps."""
  experiment, losses = make(name), []
  # XLA:CPU computes products of bfloat16 in float32, and would leave out the roundings between.
  options = QUICK | {'xla_allow_excess_precision': False}
  with warnings.catch_warnings(action='ignore'):  # units without variance, said by the program
    compiled = lambda create: jax.jit(create, compiler_options=QUICK)()
    states = jax.block_until_ready(made(name, compiled, lambda: begin(name)))
  with jax.enable_x64(dtype == 'float64'):
    state = new_state(name, dtype, states)
    step = lower(name, dtype).compile(options)
    for batch in experiment.batches:
      state, metrics = step(state, *batch)
      losses.append(float(metrics[experiment.metric]))
  return np.array(losses), flat(states[0]), flat(state.params)


def flat(params):
  return np.concatenate([np.asarray(p, np.float64).ravel() for p in jax.tree.leaves(params)])


@pytest.fixture(autouse=True)
def _random_numbers_in_float32(monkeypatch):
  """Where the default is float64, others would be drawn."""
  normal, bernoulli = jax.random.normal, jax.random.bernoulli
  as_float32 = lambda key, p, *args, **kwargs: bernoulli(key, jnp.float32(p), *args, **kwargs)
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape, *_: normal(key, shape, jnp.float32))
  monkeypatch.setattr(jax.random, 'bernoulli', as_float32)


# Bounds on the error of the loss in any step, relative to the loss, and on that of the parameters
# after the last, relative to the way that they have come: a few times what was measured.
BOUNDS = {
  ('cifar-wn_mean_bn', 'float64'): (1e-5, 1e-4),
  ('draw', 'float64'): (1e-3, 2e-2),
  ('dqn', 'float64'): (3e-5, 2e-4),
  # Frames differ in little: data-dependent initialization makes that, and roundings, large.
  ('dqn', 'bfloat16'): (0.7, 0.3),
}
LONG_BOUNDS = {
  ('cifar-bn', 'float64'): (1e-5, 1e-4),
  ('vae-conv', 'float64'): (1e-6, 2e-2),
  ('vae-resnet', 'float64'): (1e-6, 3e-5),
  ('cifar-wn_mean_bn', 'bfloat16'): (0.2, 1),
  ('cifar-bn', 'bfloat16'): (0.2, 1),
  ('vae-conv', 'bfloat16'): (1e-2, 0.1),
  ('vae-resnet', 'bfloat16'): (2e-4, 0.1),
  ('draw', 'bfloat16'): (0.2, 0.7),
}


NAMES = [
  pytest.param(name, marks=[pytest.mark.long] * (name == 'vae-resnet')) for name in EXPERIMENTS
]


def check(name, dtype, bounds, figures):
  (losses, before, after), (others, same, other) = train(name, 'float32'), train(name, dtype)
  np.testing.assert_array_equal(before, same)
  errors = {
    'loss': np.abs(others / losses - 1).max(),
    'parameters': np.linalg.norm(other - after) / np.linalg.norm(after - before),
  }
  figures(f'numerics-{name}-{dtype}', errors)
  for error, bound in zip(errors.values(), bounds, strict=True):
    assert 0 < error < bound, errors


@pytest.mark.parametrize('name, dtype', BOUNDS)
def test_a_hundred_steps(name, dtype, figures):
  check(name, dtype, BOUNDS[name, dtype], figures)


@pytest.mark.long
@pytest.mark.parametrize('name, dtype', LONG_BOUNDS)
def test_a_hundred_steps_of_the_others(name, dtype, figures):
  check(name, dtype, LONG_BOUNDS[name, dtype], figures)


@pytest.mark.parametrize('name', NAMES)
def test_float64_stays_float64(name):
  """No array of float64 becomes shorter in a step: nothing has float32 written into it."""
  text = lower(name, 'float64').as_text()
  pairs = re.findall(r'stablehlo.convert .*: \(tensor<(.*)>\) -> tensor<(.*)>', text)
  assert any(new.endswith('xf64') for _, new in pairs)
  assert [pair for pair in pairs if pair[0].endswith('xf64') and pair[1].endswith('f32')] == []


PRODUCTS = {'convolution', 'dot_general'}
MOVES = {
  'broadcast_in_dim', 'concatenate', 'constant', 'convert', 'dynamic_slice', 'dynamic_update_slice',
  'pad', 'reshape', 'return', 'reverse', 'slice', 'transpose', 'while',
}  # fmt: skip


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_is_multiplied_and_never_summed(name):
  text = lower(name, 'bfloat16').as_text()
  lines = [line for line in text.splitlines() if 'bf16' in line]
  operations = set(re.findall(r'stablehlo\.(\w+)', '\n'.join(lines)))
  assert operations & PRODUCTS and 'reduce' not in operations
  if not name.startswith('cifar'):  # whose hidden units are bfloat16
    assert operations <= PRODUCTS | MOVES
