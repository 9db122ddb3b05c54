"""Trains DRAW (§5.3)."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import config_dict

import wn
from experiments.draw import pictures
from experiments.draw.model import Bound, Draw
from experiments.draw.validate import validate
from experiments.runtime import workdir as workdir_lib
from experiments.training import binarize, data, devices, diagnostics, loop, start
from experiments.training.state import TrainState, num_params

BEST_METRIC = 'test/nll_bound'
_TEST_KEY = 1602  # of the noise in evaluation


def train(config: config_dict.FrozenConfigDict, workdir: Path, data_dir: str | None = None) -> None:
  """Runs, or goes on with, the experiment in `workdir`; writes metrics, checkpoints and pictures.

  Raises:
    UserError: the config, the data or the directory cannot be used; see the message.
  """
  start.on_images(config, workdir, data_dir, validate=validate, run_experiment=run_experiment)


def run_experiment(
  config: config_dict.FrozenConfigDict,
  workdir: Path,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> None:
  """The experiment itself, for a valid config and a directory of its own."""
  keep = config.data.train_examples or len(dataset.train)
  arrays = (dataset.train.images[:keep], binarize.draw_once(dataset.test.images))
  train_x, test_x = devices.replicate(arrays, mesh)
  steps_per_epoch = keep // config.batch_size
  params_key, data_key, step_key = jax.random.split(jax.random.key(config.seed), 3)
  order = lambda epoch: loop.epoch_order(data_key, epoch, keep, config.batch_size)

  model = create_model(config, test_x.shape[1:], params_key)
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = create_optimizer(config)
  state = TrainState.create(params, model_state, optimizer, ema=False)
  state = devices.replicate_first(state, mesh)
  print(f'{num_params(params):,} parameters, {keep:,} training images')

  step = functools.partial(
    train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    with_diagnostics=config.run.diagnostics,
  )
  step = jax.jit(step, donate_argnums=0, out_shardings=devices.replicated(mesh))
  test_step = functools.partial(eval_step, graphdef=graphdef)
  test_step = jax.jit(test_step, out_shardings=devices.replicated(mesh))
  split = functools.partial(devices.split, mesh=mesh)

  def evaluate(state: TrainState) -> dict[str, float]:
    eval_key = jax.random.fold_in(jax.random.key(_TEST_KEY), int(state.step))
    sums = loop.evaluate_in_batches(
      lambda indices, weights: test_step(state, split(indices), split(weights), test_x, eval_key),
      len(test_x),
      config.run.eval_batch_size,
    )
    return test_metrics(sums, len(test_x))

  state = loop.train(
    state,
    train_step=lambda state, indices: step(state, split(indices), train_x, step_key),
    evaluate=evaluate,
    order=order,
    steps_per_epoch=steps_per_epoch,
    epochs=config.epochs,
    workdir=workdir,
    best_metric=BEST_METRIC,
    log_every=config.run.log_every,
    checkpoint_every=config.run.checkpoint_every,
    keep_checkpoints=config.run.keep_checkpoints,
  )
  if jax.process_index():
    return
  state = devices.one_copy(state)
  trained = nnx.merge(graphdef, state.eval_params, state.model_state)
  pictures.write(workdir, trained, devices.one_copy(test_x), jax.random.key(config.seed))
  summary = workdir_lib.write_summary(
    workdir, config, best_metric=BEST_METRIC, num_params=num_params(params)
  )
  bound = summary['final'][BEST_METRIC]
  print(f'test: −log p(x) ≤ {bound:.2f} nats; all of it is in {workdir}')


def create_model(
  config: config_dict.FrozenConfigDict, image_shape: tuple[int, int, int], key: jax.Array
) -> Draw:
  """The network as it begins: one function in both parameterisations."""
  model = Draw(
    image_shape,
    **config.model,
    with_attention=config.variant.option != 'noattention',
    rngs=nnx.Rngs(params=key),
  )
  # v takes the plain weights, g their norms.
  return wn.unfold(model) if config.variant.parameterization == 'wn' else model


def create_optimizer(config: config_dict.FrozenConfigDict) -> optax.GradientTransformation:
  """Adam on the gradient of all parameters, clipped to a norm."""
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
    The new state, and of the minibatch the bound and its two parts, in nats, and the norm of the
    gradient before it is clipped; with `with_diagnostics` also those of `diagnostics.per_layer`.
  """
  bits_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step))
  x = binarize.draw(bits_key, images[indices])

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
    `log_likelihood`, and `kl` [T], in nats.
  """
  model = nnx.merge(graphdef, state.eval_params, state.model_state)
  bound = model(x[indices], jax.random.fold_in(key, indices[0]))
  return {
    'log_likelihood': jnp.sum(weights * bound.log_likelihood),
    'kl': jnp.sum(weights[:, None] * bound.kl, axis=0),
  }


def test_metrics(sums: dict[str, np.ndarray], count: int) -> dict[str, float]:
  """Means over the test set, in nats: the bound, its two parts, and the KL of every glimpse."""
  reconstruction = -float(sums['log_likelihood']) / count
  kl = np.asarray(sums['kl'], np.float64) / count
  return {
    'test/nll_bound': reconstruction + float(kl.sum()),
    'test/reconstruction': reconstruction,
    'test/kl': float(kl.sum()),
    **{f'test/kl_{t}': float(value) for t, value in enumerate(kl)},
  }
