"""Trains and evaluates the network of §5.1."""

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
from experiments.runtime.workdir import is_done
from experiments.training import data, devices, diagnostics, evaluation, session, several_steps
from experiments.training import state as state_lib
from experiments.training.state import TrainState


def train(config: config_dict.FrozenConfigDict, workdir: Path, data_dir: str | None = None) -> None:
  """Trains a network, or resumes; writes metrics, checkpoints and pictures to `workdir`.

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
    best='test/error',
    stride=config.run.steps_per_call,
  ) as run:
    values = config.data
    train_images, test_images = preprocessing.prepare(
      dataset, whiten=values.whiten, zca_eps=values.zca_eps, upscale=values.upscale
    )
    arrays = train_images[:size], dataset.train.labels[:size], test_images, dataset.test.labels
    train_x, train_y, *test_arrays = devices.replicate(arrays, mesh)
    params_key, init_key, data_key, step_key = jax.random.split(jax.random.key(config.seed), 4)

    convolution = devices.convolution(mesh, use_winograd=config.run.cpu_winograd)
    num_classes = len(dataset.class_names)
    model = create_model(config, train_x.shape[1:], num_classes, params_key, convolution)
    indices = session.epoch_batches(data_key, 0, size, config.init.examples)[0]
    initialize(model, jnp.asarray(train_images[indices]), init_key, config.init.scale)
    optimizer = create_optimizer(config, steps_per_epoch)
    graphdef, state = TrainState.of(model, optimizer, ema=config.ema_epochs > 0)
    num_params = state_lib.num_params(state.params)
    print(f'{num_params:,} parameters, {size:,} training images')

    step, test_step = compile_steps(config, graphdef, optimizer, steps_per_epoch, mesh)
    test_sums = functools.partial(
      evaluation.sum_over,
      test_step,
      arrays=test_arrays,
      num_examples=len(dataset.test),
      batch_size=config.run.eval_batch_size,
      mesh=mesh,
    )
    state = run.restore(devices.replicate_first(state, mesh))
    for epoch in run.epochs():
      batches = session.epoch_batches(data_key, epoch, size, config.batch_size)
      for indices in run.steps(several_steps.group(batches, config.run.steps_per_call)):
        state, metrics = step(state, devices.split(indices, mesh), train_x, train_y, step_key)
        run.step_done(state, metrics)
      run.epoch_done(state, test_metrics(test_sums(state)))

    sums = test_sums(state)
    if jax.process_index() == 0:
      model = devices.one_copy(state).eval_model(graphdef)
      pictures.write(workdir, sums['confusion'], dataset.class_names, model)
      summary = run.write_summary(num_params)
      print(f'test error {summary["final"]["test/error"]:.2%}; results are in {workdir}')


def compile_steps(
  config: config_dict.FrozenConfigDict,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  steps_per_epoch: int,
  mesh: jax.sharding.Mesh,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Compiles `train_step` and `eval_step`; see `devices.compile_steps`."""
  step = functools.partial(
    train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    ema_decay=state_lib.ema_decay(config.ema_epochs, steps_per_epoch),
    with_diagnostics=config.run.diagnostics,
  )
  test_step = functools.partial(eval_step, graphdef=graphdef)
  return devices.compile_steps(step, test_step, mesh, steps_per_call=config.run.steps_per_call)


def create_model(
  config: config_dict.FrozenConfigDict,
  image_shape: tuple[int, ...],
  num_classes: int,
  key: jax.Array,
  conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
) -> model_lib.ConvNet:
  """The network, before data-dependent initialization."""
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
  """The network for evaluation, from the latest checkpoint of a run.

  Args:
    config: of the run.
    workdir: of the run.
    image_shape: (H, W, C) of preprocessed images.
    num_classes: number of logits.

  Raises:
    UserError: there is no checkpoint, or it is damaged.
  """
  model = create_model(config, image_shape, num_classes, jax.random.key(0))
  optimizer = create_optimizer(config, steps_per_epoch=1)
  graphdef, state = TrainState.of(model, optimizer, ema=config.ema_epochs > 0)
  return checkpoints.restore_latest(workdir / 'checkpoints', state).eval_model(graphdef)


def initialize(
  model: model_lib.ConvNet, images: jax.Array, key: jax.Array, init_scale: float
) -> None:
  """Data-dependent initialization (§3), with noise and dropout as in the authors' code.

  `wn` and `wn_mean_bn` get g and b. `plain` and `mean_bn` get b and the weight w = g v/‖v‖, which
  they train in place of v and g. `plain_released` keeps W, and the ratio ‖w‖/‖W‖ as its fixed
  scale. `bn` stays as it is, as in the authors' code.

  Runs outside `jax.jit`: JAX does not cache a compiled program that calls back to Python, here to
  warn.
  """
  if model.parameterization == 'bn':
    return
  initialized = nnx.clone(model)  # running means, which a forward pass changes, stay as they are
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
    The new state, and metrics of the minibatch: cross-entropy in nats, error rate and, if
    `with_diagnostics`, those of `diagnostics.per_layer`.
  """
  x, y = images[indices], labels[indices]
  step_key = jax.random.fold_in(key, state.step)

  def loss_fn(params: nnx.State):
    # Copy: variables created outside the differentiated function cannot be updated inside it.
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
    `loss`, the summed cross-entropy, and `confusion` [classes, classes]: counts with true classes
    as rows and predicted classes as columns.
  """
  model = state.eval_model(graphdef)
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
  """Mean cross-entropy in nats and error rate, from sums over the test set."""
  confusion = sums['confusion'].astype(np.float64)
  total = confusion.sum()
  return {
    'test/loss': float(sums['loss'] / total),
    'test/error': float((total - np.trace(confusion)) / total),
  }
