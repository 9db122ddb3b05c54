"""NaN and infinities in data, gradient or parameter: the run stops and names what it found."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import cifar, dqn
from experiments.cifar import train as cifar_train
from experiments.dqn import agent as dqn_agent
from experiments.dqn import train as dqn_train
from experiments.dqn.actor_learner import ActorLearner
from experiments.runtime import nonfinite
from experiments.runtime.errors import UserError
from experiments.training.state import TrainState
from tests.configurations import frozen

OPTIMIZER = optax.sgd(0.1)
EXAMPLES = jnp.linspace(-1.0, 1.0, 10)


class Net(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.first = nnx.Linear(1, 4, rngs=rngs)
    self.second = nnx.Linear(4, 4, rngs=rngs)
    self.third = nnx.Linear(4, 1, rngs=rngs)

  def __call__(self, x):
    return self.third(nnx.tanh(self.second(nnx.tanh(self.first(x)))))


GRAPHDEF, PARAMS = nnx.split(Net())


@jax.jit
def plain_step(state, x, bad_gradient):
  def loss_fn(params):
    return jnp.mean(nnx.merge(GRAPHDEF, params)(x[:, None]) ** 2)

  loss, gradients = jax.value_and_grad(loss_fn)(state.params)
  gradients['second']['kernel'][...] = gradients['second']['kernel'][...] + bad_gradient
  return state.apply_gradients(gradients, state.model_state, OPTIMIZER), {'train/loss': loss}


def step_with(kind, value, at):
  """A training step on the examples with something wrong at one step, counted from 0."""

  def step(state, indices):
    bad = value if int(state.step) == at else 0.0
    x = EXAMPLES[indices] + (bad if kind == 'data' else 0.0)
    if kind == 'parameter' and bad:
      params = jax.tree.map(jnp.copy, state.params)
      params['third']['bias'][...] = params['third']['bias'][...] + bad
      state = dataclasses.replace(state, params=params)
    return plain_step(state, x, bad if kind == 'gradient' else 0.0)

  return step


KINDS = [(kind, value) for kind in ('data', 'gradient', 'parameter') for value in ('nan', 'inf')]


@pytest.fixture
def net(run, monkeypatch):
  state = TrainState.create(PARAMS, nnx.State({}), OPTIMIZER, ema=False)
  monkeypatch.setattr(type(run), 'state', staticmethod(lambda: jax.tree.map(jnp.copy, state)))
  settings = dict(
    order=lambda epoch: np.arange(10).reshape(5, 2),
    evaluate=lambda state: {'test/error': 0.5},
  )
  return lambda step: run(train_step=step, **settings)


@pytest.mark.parametrize(
  'kind, value, at',
  [
    *((kind, value, 7) for kind, value in KINDS),
    ('gradient', 'nan', 9),  # before an evaluation
    ('gradient', 'nan', 11),  # before a checkpoint
  ],
)
def test_it_stops_and_the_last_good_checkpoint_stays(kind, value, at, net, run):
  with pytest.raises(UserError, match=r'is (nan|-?inf) at step (\d+) \((.*)\); the') as error:
    net(step_with(kind, float(value), at))
  assert int(re.search(r'at step (\d+)', str(error.value))[1]) in (at + 1, at + 2)
  assert 'not finite' in str(error.value)
  assert 'Lower the learning rate, or look at the data' in str(error.value)
  good = max(step for step in (3, 5, 6, 9, 10) if step <= at)
  assert run.checkpoints[-1] == good
  assert int(net(step_with(kind, 0.0, at)).step) == 15  # once it is fixed


def test_it_names_the_parameter_that_the_last_update_broke(net, run):
  """A checkpoint is due right after the update, before anything else is computed with it."""
  message = r'at step 12 \(of the parameters, second\.kernel is not finite\); the checkpoints'
  with pytest.raises(UserError, match=message):
    net(step_with('gradient', np.nan, 11))


def test_before_the_first_checkpoint(net, run):
  with pytest.raises(UserError, match=r'step [12] \((6 parameters are|of the parameters)'):
    net(step_with('gradient', np.nan, 0))
  assert run.checkpoints == []


def test_description():
  tree = {
    'a': jnp.zeros(3),
    'b': [jnp.arange(3), jnp.array([1.0, jnp.inf])],
    'c': jnp.array(np.nan),
  }
  assert nonfinite.describe(tree) == '2 parameters are not finite, the first is b.1'
  assert nonfinite.describe(tree['b']) == 'of the parameters, 1 is not finite'
  assert nonfinite.describe({'a': jnp.zeros(3)}) == 'all parameters are finite'


@pytest.fixture
def debug_nans():
  """As JAX_DEBUG_NANS=True in the environment."""
  jax.config.update('jax_debug_nans', True)
  yield
  jax.config.update('jax_debug_nans', False)


def test_jax_stops_at_the_operation_when_it_is_asked(debug_nans, net, run):
  """As the error recommends: finite steps pass, and a NaN is found where it is computed."""
  with jax.debug_nans(False):  # after which JAX 0.10 checks no more
    pass
  with pytest.raises(FloatingPointError, match=r'invalid value \(nan\) encountered in'):
    net(step_with('gradient', np.nan, 7))
  assert run.checkpoints[-1] == 6
  assert int(net(step_with('gradient', np.nan, 99)).step) == 15


def test_a_parameter_of_an_experiment_before_its_first_step(tmp_path, monkeypatch):
  create = cifar_train.create_model

  def create_broken(*args, **kwargs):
    model = create(*args, **kwargs)
    kernel = model.block2[0].linear.kernel
    kernel[...] = kernel[...].at[0, 0, 0, 0].set(np.nan)
    return model

  monkeypatch.setattr(cifar_train, 'create_model', create_broken)
  with pytest.raises(
    UserError, match=r'step 0 \(of the parameters, block2\.0\.linear\.kernel is not'
  ):
    cifar_train.train(frozen(cifar, 'bn,tiny', {'model.block_depth': 1}), tmp_path)
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_a_parameter_of_deep_q_learning_before_its_first_step(tmp_path, monkeypatch):
  create = dqn_agent.create

  def create_broken(*args):
    graphdef, state = create(*args)
    kernel = state.params['conv2']['kernel']
    kernel[...] = kernel[...].at[0, 0, 0, 0].set(np.nan)
    return graphdef, state

  monkeypatch.setattr(dqn_agent, 'create', create_broken)
  with pytest.raises(UserError, match=r'nan at step 0 \(of the parameters, conv2\.kernel is not'):
    dqn_train.train(frozen(dqn, 'breakout-plain,tiny'), tmp_path)
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_deep_q_learning_names_the_parameters(tmp_path, monkeypatch):
  changes = {'run.checkpoint_every': 100, 'run.log_every': 200}
  config = frozen(dqn, 'breakout-wn,tiny', changes)
  step = ActorLearner.step

  def broken_step(learner):
    actions = step(learner)
    if learner.steps == 124:
      params = jax.tree.map(jnp.copy, learner.state.params)
      params['conv3']['scale'][...] = params['conv3']['scale'][...].at[1].set(np.inf)
      train = dataclasses.replace(learner.state.train, params=params)
      learner.state = dataclasses.replace(learner.state, train=train)
    return actions

  monkeypatch.setattr(ActorLearner, 'step', broken_step)
  message = r'train/loss is nan at step 200 \(\d+ parameters are not finite, the first is .*\); the'
  with pytest.raises(UserError, match=message):
    dqn_train.train(config, tmp_path)
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['100']
