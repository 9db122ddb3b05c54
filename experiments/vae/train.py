"""Trains the variational autoencoders of §5.2."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import config_dict

import wn
from experiments.runtime import checkpoints
from experiments.runtime import workdir as workdir_lib
from experiments.training import binarize, data, devices, diagnostics, loop, optimizers, start
from experiments.training import state as state_lib
from experiments.training.state import TrainState, num_params
from experiments.vae import pictures, resnet_vae
from experiments.vae.bound import Bound
from experiments.vae.conv_vae import ConvVAE
from experiments.vae.layers import Layers, init_scale
from experiments.vae.resnet_vae import ResNetVAE
from experiments.vae.validate import validate

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
  images = train_images(config, dataset)[:keep]
  train_x, test_x = devices.replicate((images, test_images(dataset)), mesh)
  steps_per_epoch = keep // config.batch_size
  params_key, init_key, data_key, step_key = jax.random.split(jax.random.key(config.seed), 4)
  order = lambda epoch: loop.epoch_order(data_key, epoch, keep, config.batch_size)

  model = create_model(config, test_x.shape[1:], params_key)
  init_examples = loop.epoch_order(data_key, 0, keep, config.init.examples)[0]
  initialize(
    model,
    jnp.asarray(images[init_examples]),
    init_key,
    dataset=dataset.name,
    scale=config.init.scale,
    flow_scale=config.init.flow_scale,
  )
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = create_optimizer(config)
  state = TrainState.create(params, model_state, optimizer, ema=config.ema_epochs > 0)
  state = devices.replicate_first(state, mesh)
  print(f'{num_params(params):,} parameters, {keep:,} training images')

  step = functools.partial(
    train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    dataset=dataset.name,
    free_bits=config.free_bits,
    ema_decay=state_lib.ema_decay(config.ema_epochs, steps_per_epoch),
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
    return test_metrics(sums, len(test_x), np.prod(test_x.shape[1:]))

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


def is_binary(dataset: str) -> bool:
  """Whether the images of a data set are modelled as bits; those of CIFAR-10 are not."""
  return dataset != 'cifar10'


def train_images(config: config_dict.FrozenConfigDict, dataset: data.Dataset) -> np.ndarray:
  """[N, H, W, C] uint8 training images, of which `observe` makes what the network sees.

  If bits are to be drawn once, they are: 0 and 255, of which `observe` draws the same ones always.
  """
  images = dataset.train.images
  if is_binary(dataset.name) and config.data.binarize == 'once':
    return (255 * binarize.draw_once(images, train=True)).astype(np.uint8)
  return images


def test_images(dataset: data.Dataset) -> np.ndarray:
  """[N, H, W, C] float32 test images: bits drawn once from the grey values, or pixel/256 − 0.5."""
  images = dataset.test.images
  if is_binary(dataset.name):
    return binarize.draw_once(images)
  return images.astype(np.float32) / 256 - 0.5


def observe(key: jax.Array, images: jax.Array, dataset: str) -> jax.Array:
  """Float32 images: bits with the grey values as probabilities, or pixel/256 − 0.5."""
  if is_binary(dataset):
    return binarize.draw(key, images)
  return images.astype(jnp.float32) / 256 - 0.5


def create_model(
  config: config_dict.FrozenConfigDict, image_shape: tuple[int, ...], key: jax.Array
) -> ConvVAE | ResNetVAE:
  """The network, before data-dependent initialisation."""
  variant = config.variant
  layers = Layers(variant.parameterization, **config.layers, rngs=nnx.Rngs(params=key))
  network = ConvVAE if is_binary(variant.dataset) else ResNetVAE
  return network(image_shape, layers=layers, is_iaf=variant.posterior == 'iaf', **config.model)


def initialize(
  model: ConvVAE | ResNetVAE,
  images: jax.Array,
  key: jax.Array,
  *,
  dataset: str,
  scale: float,
  flow_scale: float,
) -> None:
  """Data-dependent initialisation on uint8 images, in both parameterisations.

  Both begin as the same function, so that they differ by the parameterisation alone.

  Args:
    model: is changed in place.
    images: [B, H, W, C] of `train_images`.
    key: of the bits and of the noise in z.
    dataset: name of the data set.
    scale: standard deviation of what a layer computes.
    flow_scale: that of the layers in the flow.
  """
  bits_key, noise_key = jax.random.split(key)
  x = observe(bits_key, images, dataset)
  if isinstance(model, ResNetVAE):
    resnet_vae.initialize(model, x, noise_key, scale=scale, flow_scale=flow_scale)
  else:
    wn.data_dependent_init(model, x, noise_key, init_scale=init_scale(scale, flow_scale))


def create_optimizer(config: config_dict.FrozenConfigDict) -> optax.GradientTransformation:
  """The authors' Adamax."""
  return optimizers.adamax(**config.optimizer)


def restore_model(
  config: config_dict.ConfigDict, workdir: Path, image_shape: tuple[int, ...]
) -> tuple[ConvVAE | ResNetVAE, int]:
  """The network of a run as it is evaluated, from its latest checkpoint, and that one's step.

  Raises:
    UserError: there is no checkpoint, or it is damaged.
  """
  model = create_model(config, image_shape, jax.random.key(0))
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  state = TrainState.create(
    params, model_state, create_optimizer(config), ema=config.ema_epochs > 0
  )
  state = checkpoints.restore_latest(workdir / 'checkpoints', state)
  return nnx.merge(graphdef, state.eval_params, state.model_state), int(state.step)


def train_step(
  state: TrainState,
  indices: jax.Array,
  images: jax.Array,
  key: jax.Array,
  *,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  dataset: str,
  free_bits: float,
  ema_decay: float,
  with_diagnostics: bool,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One step on the training images `indices` [B]; pure.

  Returns:
    The new state, and the minibatch's bound and its two parts, in nats; with `with_diagnostics`
    also those of `diagnostics.per_layer`.
  """
  bits_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step))
  x = observe(bits_key, images[indices], dataset)

  def loss_fn(params: nnx.State):
    model = nnx.merge(graphdef, params, state.model_state)
    bound = model(x, noise_key)
    return bound.loss(free_bits), _means(bound)

  gradients, means = jax.grad(loss_fn, has_aux=True)(state.params)
  new = state.apply_gradients(gradients, state.model_state, optimizer, ema_decay=ema_decay)
  metrics = {f'train/{name}': value for name, value in means.items()}
  if with_diagnostics:
    model = nnx.merge(graphdef, state.params, state.model_state)
    metrics |= diagnostics.per_layer(model, gradients, new.params)
  return new, metrics


def _means(bound: Bound) -> dict[str, jax.Array]:
  return {
    'nll_bound': -jnp.mean(bound.elbo),
    'reconstruction': -jnp.mean(bound.log_likelihood),
    'kl': jnp.mean(jnp.sum(bound.kl, axis=(1, 2))),
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
    `log_likelihood`, and `kl` [layers], in nats.
  """
  model = nnx.merge(graphdef, state.eval_params, state.model_state)
  bound = model(x[indices], jax.random.fold_in(key, indices[0]))
  return {
    'log_likelihood': jnp.sum(weights * bound.log_likelihood),
    'kl': jnp.sum(weights[:, None] * jnp.sum(bound.kl, axis=2), axis=0),
  }


def test_metrics(sums: dict[str, np.ndarray], count: int, dimensions: int) -> dict[str, float]:
  """Means over the test set: the bound in nats and bits per dimension, and its two parts."""
  reconstruction = -float(sums['log_likelihood']) / count
  kl = np.asarray(sums['kl'], np.float64) / count
  bound = reconstruction + float(kl.sum())
  metrics = {
    'test/nll_bound': bound,
    'test/bits_per_dim': bound / (dimensions * np.log(2)),
    'test/reconstruction': reconstruction,
    'test/kl': float(kl.sum()),
  }
  if len(kl) > 1:
    metrics |= {f'test/kl_{i}': float(value) for i, value in enumerate(kl)}
  return metrics
