"""A training step of the CIFAR-10 network in JAX, `flax.linen` and PyTorch, on random images.

All do the same work: noise, forward, backward, Adam.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from scripts.benchmark import stepper
from scripts.benchmark.stepper import Stepper
from scripts.benchmark.worker import Row


def build(row: Row) -> Stepper:
  """The steps of a row; imports only its framework."""
  return {'jax': _jax_step, 'flax.linen': _linen_step, 'torch': _torch_step}[row.framework](row)


def gflop(width: int, batch: int, depth: int) -> float:
  """GFLOP of a step with plain convolutions; a multiply-add counts as two operations.

  Includes the gradients of kernels and, except in the first layer, of inputs.
  """
  first, second = 32 * 32 * width, 16 * 16 * 2 * width  # outputs per image
  products = {
    'first': first * 27,
    'block 1': (depth - 1) * first * 9 * width,
    'block 2': second * 9 * width + (depth - 1) * second * 18 * width,
    'block 3': 36 * (2 * width) ** 2 * (9 + 1 + 1),
    'dense': 20 * width,
  }
  return 2e-9 * batch * (3 * sum(products.values()) - products['first'])


def _images(batch: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  images = rng.normal(size=(batch, 32, 32, 3)).astype(np.float32)
  return images, np.arange(batch) % 10


def _jax_step(row: Row) -> Stepper:
  """The training step of `experiments.cifar`."""
  import jax
  from ml_collections import config_dict

  from configs import cifar
  from experiments.cifar import train
  from experiments.training import devices
  from experiments.training.state import TrainState

  config = cifar.get_config(row.variant)
  config.batch_size = row.batch
  config.model.update(width=row.width, block_depth=row.depth, dtype=row.dtype)
  config.run.cpu_winograd = row.mode == 'winograd'
  config = config_dict.FrozenConfigDict(config)
  mesh = devices.data_mesh(row.batch)
  conv = devices.convolution(mesh, use_winograd=config.run.cpu_winograd)
  images, labels = jax.device_put(_images(row.batch))
  model = train.create_model(config, images.shape[1:], 10, jax.random.key(0), conv)
  optimizer = train.create_optimizer(config, steps_per_epoch=500)
  graphdef, state = TrainState.of(model, optimizer)
  step, _ = train.compile_steps(config, graphdef, optimizer, 500, mesh)
  arguments = (np.arange(row.batch), images, labels, jax.random.key(1))
  return stepper.of_jax(step, state, arguments)


def _linen_step(row: Row) -> Stepper:
  """The same network with `flax.linen.WeightNorm` around each layer, and linen's convolution."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp
  import optax

  from experiments.cifar.model import leaky_relu, max_pool

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      def layer(make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        return nn.WeightNorm(make(*args, dtype=row.dtype, **kwargs))

      x += 0.15 * jax.random.normal(self.make_rng('noise'), x.shape)
      for features in (row.width, 2 * row.width):
        for _ in range(row.depth):
          x = leaky_relu(layer(nn.Conv, features, (3, 3))(x))
        x = nn.Dropout(0.5, deterministic=False)(max_pool(x))
      x = leaky_relu(layer(nn.Conv, 2 * row.width, (3, 3), padding='VALID')(x))
      for _ in range(2):
        x = leaky_relu(layer(nn.Conv, 2 * row.width, (1, 1))(x))
      return nn.WeightNorm(nn.Dense(10))(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))

  net, optimizer = Net(), optax.adam(1e-3)
  images, labels = jax.device_put(_images(row.batch))

  def rngs(key: jax.Array) -> dict[str, jax.Array]:
    noise, dropout = jax.random.split(key)
    return {'noise': noise, 'dropout': dropout}

  params = net.init({'params': jax.random.key(0), **rngs(jax.random.key(1))}, images)['params']

  def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
    params, opt_state, key = state
    key, step_key = jax.random.split(key)

    def loss_fn(params: Any) -> jax.Array:
      logits = net.apply({'params': params}, images, rngs=rngs(step_key))
      return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return (optax.apply_updates(params, updates), opt_state, key), loss

  state = (params, optimizer.init(params), jax.random.key(2))
  return stepper.of_jax(jax.jit(step, donate_argnums=0), state, (images, labels))


def _torch_step(row: Row) -> Stepper:
  """The same network in PyTorch, in channels-last layout."""
  import torch
  from torch import nn

  class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
      return x + 0.15 * torch.randn_like(x)

  def unit(features_in: int, features: int, size: int, padding: int = 0) -> list[nn.Module]:
    conv = nn.Conv2d(features_in, features, size, padding=padding, bias=row.variant != 'bn')
    if row.variant == 'wn':
      conv = nn.utils.parametrizations.weight_norm(conv)
    norm = [nn.BatchNorm2d(features)] if row.variant == 'bn' else []
    return [conv, *norm, nn.LeakyReLU(0.1)]

  layers: list[nn.Module] = [Noise()]
  channels = 3
  for features in (row.width, 2 * row.width):
    for _ in range(row.depth):
      layers += unit(channels, features, 3, padding=1)
      channels = features
    layers += [nn.MaxPool2d(2), nn.Dropout(0.5)]
  layers += unit(channels, channels, 3) + unit(channels, channels, 1) + unit(channels, channels, 1)
  dense = nn.Linear(channels, 10)
  if row.variant == 'wn':
    dense = nn.utils.parametrizations.weight_norm(dense)
  net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense)
  device = stepper.torch_device()
  net = net.to(device, memory_format=torch.channels_last)
  optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
  images, labels = (torch.from_numpy(array).to(device) for array in _images(row.batch))
  images = images.permute(0, 3, 1, 2)  # channels last in memory
  forward = torch.compile(net) if row.mode == 'compile' else net

  def step() -> None:
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=row.dtype == 'bfloat16'):
      loss = nn.functional.cross_entropy(forward(images), labels)
    loss.backward()
    optimizer.step()

  return stepper.of_torch(step, device)
