"""Trains the network of §5.1: data-dependent initialisation, the training step, evaluation."""

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

import wn
from experiments.cifar import model as model_lib
from experiments.cifar import optimizer as optimizer_lib
from experiments.cifar import pictures, preprocessing, released
from experiments.cifar.validate import validate
from experiments.runtime import checkpoints
from experiments.runtime import workdir as workdir_lib
from experiments.training import data, devices, diagnostics, loop, start
from experiments.training import state as state_lib
from experiments.training.state import TrainState, num_params

BEST_METRIC = 'test/error'


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
  train_images, test_images = preprocessing.prepare(
    dataset,
    whiten=config.data.whiten,
    zca_eps=config.data.zca_eps,
    upscale=config.data.upscale,
  )
  keep = config.data.train_examples or len(dataset.train)
  arrays = (train_images[:keep], dataset.train.labels[:keep], test_images, dataset.test.labels)
  train_x, train_y, test_x, test_y = devices.replicate(arrays, mesh)
  steps_per_epoch = keep // config.batch_size
  params_key, init_key, data_key, step_key = jax.random.split(jax.random.key(config.seed), 4)
  order = lambda epoch: loop.epoch_order(data_key, epoch, keep, config.batch_size)

  model = create_model(
    config,
    train_x.shape[1:],
    len(dataset.class_names),
    params_key,
    conv_general_dilated=devices.convolution(mesh, winograd=config.run.cpu_winograd),
  )
  # Batch normalisation needs no such initialisation, and has none in the authors' code.
  if config.variant.parameterization != 'bn':
    init_examples = loop.epoch_order(data_key, 0, keep, config.init.examples)[0]
    init_images = jnp.asarray(train_images[init_examples])
    initialize(model, init_images, init_key, config.init.scale)
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = create_optimizer(config, steps_per_epoch)
  state = TrainState.create(params, model_state, optimizer, ema=config.ema_epochs > 0)
  state = devices.replicate_first(state, mesh)
  print(f'{num_params(params):,} parameters, {len(train_y):,} training images')

  step = functools.partial(
    train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    ema_decay=state_lib.ema_decay(config.ema_epochs, steps_per_epoch),
    with_diagnostics=config.run.diagnostics,
  )
  step = jax.jit(step, donate_argnums=0, out_shardings=devices.replicated(mesh))
  test_step = functools.partial(eval_step, graphdef=graphdef)
  test_step = jax.jit(test_step, out_shardings=devices.replicated(mesh))
  split = functools.partial(devices.split, mesh=mesh)

  def confusion(state: TrainState) -> dict[str, np.ndarray]:
    return loop.evaluate_in_batches(
      lambda indices, weights: test_step(state, split(indices), split(weights), test_x, test_y),
      len(test_y),
      config.run.eval_batch_size,
    )

  state = loop.train(
    state,
    train_step=lambda state, indices: step(state, split(indices), train_x, train_y, step_key),
    evaluate=lambda state: test_metrics(confusion(state)),
    order=order,
    steps_per_epoch=steps_per_epoch,
    epochs=config.epochs,
    workdir=workdir,
    best_metric=BEST_METRIC,
    log_every=config.run.log_every,
    checkpoint_every=config.run.checkpoint_every,
    keep_checkpoints=config.run.keep_checkpoints,
  )
  counts = confusion(state)['confusion']
  if jax.process_index():
    return
  state = devices.one_copy(state)
  trained = nnx.merge(graphdef, state.eval_params, state.model_state)
  pictures.write(workdir, counts, dataset.class_names, trained)
  summary = workdir_lib.write_summary(
    workdir, config, best_metric=BEST_METRIC, num_params=num_params(params)
  )
  print(f'test error {100 * summary["final"]["test/error"]:.2f} %; all of it is in {workdir}')


def create_model(
  config: config_dict.FrozenConfigDict,
  image_shape: tuple[int, ...],
  num_classes: int,
  key: jax.Array,
  conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
) -> model_lib.ConvNet:
  """The network, before data-dependent initialisation."""
  return model_lib.ConvNet(
    image_shape,
    num_classes,
    **config.variant,
    **config.model,
    conv_general_dilated=conv_general_dilated,
    rngs=nnx.Rngs(params=key),
  )


def restore_model(
  config: config_dict.ConfigDict, workdir: Path, image_shape: tuple[int, ...], num_classes: int
) -> model_lib.ConvNet:
  """The network of a run as it is evaluated, from its latest checkpoint.

  Args:
    config: of the run.
    workdir: its directory.
    image_shape: (H, W, C) of its preprocessed images.
    num_classes: of its data set.

  Raises:
    UserError: there is no checkpoint, or it is damaged.
  """
  model = create_model(config, image_shape, num_classes, jax.random.key(0))
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = create_optimizer(config, steps_per_epoch=1)
  state = TrainState.create(params, model_state, optimizer, ema=config.ema_epochs > 0)
  state = checkpoints.restore_latest(workdir / 'checkpoints', state)
  return nnx.merge(graphdef, state.eval_params, state.model_state)


def initialize(
  model: model_lib.ConvNet, images: jax.Array, key: jax.Array, init_scale: float
) -> None:
  """Data-dependent initialisation, with noise and dropout active as in the authors' code.

  It sets parameters, and the fixed scales of the authors' normal parameterisation; running means
  stay as they were. It runs outside `jax.jit`: a program that can warn, by a call back to Python,
  is not kept in the compilation cache.
  """
  initialized = nnx.clone(model)
  wn.data_dependent_init(initialized, images, init_scale=init_scale, train=True, rngs=nnx.Rngs(key))
  if model.parameterization == 'plain_released':
    released.fix_scales(model, initialized)
  else:
    nnx.update(model, nnx.state(initialized, nnx.Param))


def create_optimizer(
  config: config_dict.FrozenConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  """Adam with the schedules of the config."""
  values, epochs = config.optimizer, config.epochs
  return optimizer_lib.adam(
    functools.partial(optimizer_lib.learning_rate, base=values.learning_rate, epochs=epochs),
    functools.partial(
      optimizer_lib.first_moment_decay,
      first_half=values.b1,
      second_half=values.b1_second_half,
      epochs=epochs,
    ),
    b2=values.b2,
    eps_root=values.eps_root,
    steps_per_epoch=steps_per_epoch,
  )


def train_step(
  state: TrainState,
  indices: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  key: jax.Array,
  *,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  with_diagnostics: bool,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step on the training images `indices` [B]; pure.

  Returns:
    The new state, and the minibatch's cross-entropy (nats) and error rate; with
    `with_diagnostics` also those of `diagnostics.per_layer`.
  """
  x, y = images[indices], labels[indices]
  step_key = jax.random.fold_in(key, state.step)

  def loss_fn(params: nnx.State):
    # A copy, as a variable made outside the derivative must not be written in it.
    model = nnx.merge(graphdef, params, state.model_state, copy=True)
    logits = model(x, train=True, rngs=nnx.Rngs(step_key))
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))
    error = jnp.mean(jnp.argmax(logits, axis=-1) != y)
    return loss, (error, nnx.split(model, nnx.Param, ...)[2])

  (loss, (error, model_state)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  new = state.apply_gradients(gradients, model_state, optimizer, ema_decay=ema_decay)
  metrics = {'train/loss': loss, 'train/error': error}
  if with_diagnostics:
    model = nnx.merge(graphdef, state.params, state.model_state)
    metrics |= diagnostics.per_layer(model, gradients, new.params)
  return new, metrics


def eval_step(
  state: TrainState,
  indices: jax.Array,
  weights: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  graphdef: nnx.GraphDef,
) -> dict[str, jax.Array]:
  """Sums over the test images `indices` [B] with weights [B] 0 or 1.

  Returns:
    `loss`, summed cross-entropy, and `confusion` [classes, classes]: counts by true class (rows)
    and predicted class (columns).
  """
  model = nnx.merge(graphdef, state.eval_params, state.model_state)
  y = labels[indices]
  logits = model(images[indices], train=False)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
  num_classes = logits.shape[-1]
  one_hot = functools.partial(jax.nn.one_hot, num_classes=num_classes)
  predicted = one_hot(jnp.argmax(logits, axis=-1))
  return {
    'loss': jnp.sum(weights * losses),
    'confusion': jnp.matmul((weights[:, None] * one_hot(y)).T, predicted),
  }


def test_metrics(sums: dict[str, Any]) -> dict[str, float]:
  """Mean cross-entropy (nats) and error rate from the sums over the test set."""
  confusion = sums['confusion'].astype(np.float64)
  total = confusion.sum()
  return {
    'test/loss': float(sums['loss'] / total),
    'test/error': float((total - np.trace(confusion)) / total),
  }
