"""Trains and evaluates DRAW (§5.3)."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import config_dict

from experiments.draw import pictures
from experiments.draw.model import Bound, Draw
from experiments.draw.validate import validate
from experiments.runtime.workdir import is_done
from experiments.training import (
  binarize,
  data,
  devices,
  diagnostics,
  evaluation,
  session,
  several_steps,
)
from experiments.training import state as state_lib
from experiments.training.state import TrainState

_TEST_KEY = 1602  # of evaluation noise


def train(config: config_dict.FrozenConfigDict, workdir: Path, data_dir: str | None = None) -> None:
  """Trains a model, or resumes; writes metrics, checkpoints and pictures to `workdir`.

  Raises:
    UserError: the config, the data or the directory cannot be used.
  """
  validate(config)
  if is_done(workdir, config):
    return
  mesh = devices.data_mesh(config.batch_size)
  dataset = data.load(config.data.name, data_dir)
  validate(config, dataset)
  run_experiment(config, workdir, dataset, mesh)


def run_experiment(
  config: config_dict.FrozenConfigDict,
  workdir: Path,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> None:
  """Runs the experiment, from the data to the pictures."""
  size = config.data.train_examples or len(dataset.train)
  steps_per_epoch = size // config.batch_size
  with session.open(
    config,
    workdir,
    dataset.description,
    steps_per_epoch,
    best='test/nll_bound',
    stride=config.run.steps_per_call,
  ) as run:
    arrays = dataset.train.images[:size], binarize.fixed(dataset.test.images)
    train_x, test_x = devices.replicate(arrays, mesh)
    params_key, data_key, step_key = jax.random.split(jax.random.key(config.seed), 3)

    model = create_model(config, test_x.shape[1:], params_key)
    optimizer = create_optimizer(config)
    graphdef, state = TrainState.of(model, optimizer)
    num_params = state_lib.num_params(state.params)
    print(f'{num_params:,} parameters, {size:,} training images')

    step, test_step = compile_steps(config, graphdef, optimizer, mesh)
    state = run.restore(devices.replicate_first(state, mesh))
    for epoch in run.epochs():
      batches = session.epoch_batches(data_key, epoch, size, config.batch_size)
      for indices in run.steps(several_steps.group(batches, config.run.steps_per_call)):
        state, metrics = step(state, devices.split(indices, mesh), train_x, step_key)
        run.step_done(state, metrics)
      noise_key = jax.random.fold_in(jax.random.key(_TEST_KEY), int(state.step))
      sums = evaluation.sum_over(
        test_step,
        state,
        (test_x, noise_key),
        num_examples=len(test_x),
        batch_size=config.run.eval_batch_size,
        mesh=mesh,
      )
      run.epoch_done(state, test_metrics(sums, len(test_x)))

    if jax.process_index() == 0:
      model = devices.one_copy(state).eval_model(graphdef)
      pictures.write(workdir, model, devices.one_copy(test_x), jax.random.key(config.seed))
      summary = run.write_summary(num_params)
      bound = summary['final']['test/nll_bound']
      print(f'test: −log p(x) ≤ {bound:.2f} nats; results are in {workdir}')


def compile_steps(
  config: config_dict.FrozenConfigDict,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Compiles `train_step` and `eval_step`; see `devices.compile_steps`."""
  step = functools.partial(
    train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    with_diagnostics=config.run.diagnostics,
  )
  test_step = functools.partial(eval_step, graphdef=graphdef)
  return devices.compile_steps(step, test_step, mesh, steps_per_call=config.run.steps_per_call)


def create_model(
  config: config_dict.FrozenConfigDict, image_shape: tuple[int, int, int], key: jax.Array
) -> Draw:
  """The network before training."""
  return Draw(
    image_shape,
    parameterization=config.variant.parameterization,
    **config.model,
    with_attention=config.variant.option != 'noattention',
    rngs=nnx.Rngs(params=key),
  )


def create_optimizer(config: config_dict.FrozenConfigDict) -> optax.GradientTransformation:
  """Adam, with the global norm of the gradient clipped."""
  values = config.optimizer
  return optax.chain(
    optax.clip_by_global_norm(values.clip_norm),
    optax.adam(values.learning_rate, b1=values.b1, b2=values.b2, eps=values.eps),
  )


def train_step(
  state: TrainState,
  indices: jax.Array,
  images: jax.Array,
  key: jax.Array,
  *,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  with_diagnostics: bool,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step on the training images `indices` [B]; pure.

  Returns:
    The new state, and metrics of the minibatch: the bound and its two parts in nats, the norm of
    the gradient before clipping and, if `with_diagnostics`, those of `diagnostics.per_layer`.
  """
  bits_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step))
  x = binarize.sample(bits_key, images[indices])

  def loss_fn(params: nnx.State):
    bound = nnx.merge(graphdef, params, state.model_state)(x, noise_key)
    return -jnp.mean(bound.elbo), _means(bound)

  gradients, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  metrics['train/gradient_norm'] = optax.tree.norm(gradients)
  new = state.apply_gradients(gradients, state.model_state, optimizer)
  if with_diagnostics:
    model = nnx.merge(graphdef, state.params, state.model_state)
    metrics |= diagnostics.per_layer(model, gradients, new.params)
  return new, metrics


def _means(bound: Bound) -> dict[str, jax.Array]:
  return {
    'train/nll_bound': -jnp.mean(bound.elbo),
    'train/reconstruction': -jnp.mean(bound.log_likelihood),
    'train/kl': jnp.mean(jnp.sum(bound.kl, axis=1)),
  }


def eval_step(
  state: TrainState,
  indices: jax.Array,
  weights: jax.Array,
  x: jax.Array,
  key: jax.Array,
  *,
  graphdef: nnx.GraphDef,
) -> dict[str, jax.Array]:
  """Sums over the test images `indices` [B] with weights [B] 0 or 1.

  Returns:
    `log_likelihood` and `kl` [T], in nats.
  """
  model = state.eval_model(graphdef)
  bound = model(x[indices], jax.random.fold_in(key, indices[0]))
  return {
    'log_likelihood': jnp.sum(weights * bound.log_likelihood),
    'kl': jnp.sum(weights[:, None] * bound.kl, axis=0),
  }


def test_metrics(sums: dict[str, np.ndarray], count: int) -> dict[str, float]:
  """Test means in nats: the bound, its two parts and the KL of each glimpse."""
  reconstruction = -float(sums['log_likelihood']) / count
  kl = np.asarray(sums['kl'], np.float64) / count
  return {
    'test/nll_bound': reconstruction + float(kl.sum()),
    'test/reconstruction': reconstruction,
    'test/kl': float(kl.sum()),
    **{f'test/kl_{t}': float(value) for t, value in enumerate(kl)},
  }
