"""Trains the variational autoencoders of §5.2."""

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
from experiments.runtime import checkpoints
from experiments.runtime.workdir import is_done
from experiments.training import (
  data,
  devices,
  diagnostics,
  evaluation,
  optimizers,
  session,
  several_steps,
)
from experiments.training import state as state_lib
from experiments.training.layers import Layers
from experiments.training.state import TrainState
from experiments.vae import pictures, resnet_vae
from experiments.vae.autoregressive import init_scale
from experiments.vae.bound import Bound
from experiments.vae.conv_vae import ConvVAE
from experiments.vae.images import is_binary, observe, test_images, train_images
from experiments.vae.resnet_vae import ResNetVAE
from experiments.vae.validate import validate

_TEST_KEY = 1602  # seed of the noise in evaluations


def train(config: config_dict.FrozenConfigDict, workdir: Path, data_dir: str | None = None) -> None:
  """Trains a model in `workdir`, or resumes; writes metrics, checkpoints and pictures there.

  Raises:
    UserError: the config, the data or the directory cannot be used.
  """
  validate(config)
  if is_done(workdir, config):
    return
  mesh = devices.data_mesh(config.batch_size)
  dataset = data.load(config.variant.dataset, data_dir)
  validate(config, dataset)
  run_experiment(config, workdir, dataset, mesh)


def run_experiment(
  config: config_dict.FrozenConfigDict,
  workdir: Path,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> None:
  """The experiment, from the data to the pictures."""
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
    images = train_images(config, dataset)[:size]
    train_x, test_x = devices.replicate((images, test_images(dataset)), mesh)
    params_key, init_key, data_key, step_key = jax.random.split(jax.random.key(config.seed), 4)

    model = create_model(config, test_x.shape[1:], params_key)
    indices = session.epoch_batches(data_key, 0, size, config.init.examples)[0]
    initialize(
      model,
      jnp.asarray(images[indices]),
      init_key,
      dataset=dataset.name,
      scale=config.init.scale,
      flow_scale=config.init.flow_scale,
    )
    optimizer = create_optimizer(config)
    graphdef, state = TrainState.of(model, optimizer, ema=config.ema_epochs > 0)
    num_params = state_lib.num_params(state.params)
    print(f'{num_params:,} parameters, {size:,} training images')

    step, test_step = compile_steps(config, graphdef, optimizer, steps_per_epoch, mesh)
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
      run.epoch_done(state, test_metrics(sums, len(test_x), np.prod(test_x.shape[1:])))

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
  steps_per_epoch: int,
  mesh: jax.sharding.Mesh,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Compiles `train_step` and `eval_step`; see `devices.compile_steps`."""
  step = functools.partial(
    train_step,
    graphdef=graphdef,
    optimizer=optimizer,
    dataset=config.variant.dataset,
    free_bits=config.free_bits,
    ema_decay=state_lib.ema_decay(config.ema_epochs, steps_per_epoch),
    with_diagnostics=config.run.diagnostics,
  )
  test_step = functools.partial(eval_step, graphdef=graphdef)
  return devices.compile_steps(step, test_step, mesh, steps_per_call=config.run.steps_per_call)


def create_model(
  config: config_dict.FrozenConfigDict, image_shape: tuple[int, ...], key: jax.Array
) -> ConvVAE | ResNetVAE:
  """Creates the network, before data-dependent initialization."""
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
  """Data-dependent initialization, in place, on uint8 images.

  Both parameterizations are initialized so that they begin as the same function.

  Args:
    model: is changed in place.
    images: [B, H, W, C] from `train_images`.
    key: random key of the bits and of the noise in z.
    dataset: name of the data set.
    scale: target standard deviation of a layer's outputs.
    flow_scale: the same for layers of the flow.
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
  """The evaluation model in the latest checkpoint of a run, and the step of that checkpoint.

  Raises:
    UserError: there is no checkpoint, or it is damaged.
  """
  model = create_model(config, image_shape, jax.random.key(0))
  graphdef, state = TrainState.of(model, create_optimizer(config), ema=config.ema_epochs > 0)
  state = checkpoints.restore_latest(workdir / 'checkpoints', state)
  return state.eval_model(graphdef), int(state.step)


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
  """One update on the training images `indices` [B].

  Returns:
    The new state, and the bound on the minibatch and its two parts in nats; `with_diagnostics` adds
    `diagnostics.per_layer`.
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
  """Sums over the test images `indices` [B], weighted by 0 or 1.

  Returns:
    `log_likelihood` and `kl` [layers], in nats.
  """
  model = state.eval_model(graphdef)
  bound = model(x[indices], jax.random.fold_in(key, indices[0]))
  return {
    'log_likelihood': jnp.sum(weights * bound.log_likelihood),
    'kl': jnp.sum(weights[:, None] * jnp.sum(bound.kl, axis=2), axis=0),
  }


def test_metrics(sums: dict[str, np.ndarray], count: int, dimensions: int) -> dict[str, float]:
  """Test-set means of the bound, in nats and in bits per dimension, and of its two parts."""
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
