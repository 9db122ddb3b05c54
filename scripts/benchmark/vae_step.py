"""A training step of the MNIST VAE with IAF (`configs/vae.py:mnist-iaf-*`) in JAX and PyTorch.

Both do the same work: bits, bound, gradient, Adamax, moving average of the parameters.
"""

import itertools
import math

import numpy as np

from scripts.benchmark import stepper
from scripts.benchmark.stepper import Stepper
from scripts.benchmark.worker import Row

MAPS, BLOCKS, HIDDEN, LATENTS, FLOW_STEPS = (16, 32, 32), 2, 450, 32, 4


def build(row: Row) -> Stepper:
  """The steps of a row; imports only its framework."""
  return {'jax': _jax_step, 'torch': _torch_step}[row.framework](row)


def _jax_step(row: Row) -> Stepper:
  """The training step of `experiments.vae`."""
  import jax
  from ml_collections import config_dict

  from configs import vae
  from experiments.training import devices
  from experiments.training.state import TrainState
  from experiments.vae import train

  config = vae.get_config(f'mnist-iaf-{row.variant}')
  config.batch_size = row.batch
  config.layers.dtype = row.dtype
  config = config_dict.FrozenConfigDict(config)
  images = jax.device_put(stepper.digits(row.batch))
  model = train.create_model(config, images.shape[1:], jax.random.key(0))
  optimizer = train.create_optimizer(config)
  graphdef, state = TrainState.of(model, optimizer, ema=True)
  mesh = devices.data_mesh(row.batch)
  step, _ = train.compile_steps(config, graphdef, optimizer, 600, mesh)
  return stepper.of_jax(step, state, (np.arange(row.batch), images, jax.random.key(1)))


def _torch_step(row: Row) -> Stepper:
  """The same network, unnormalized, in PyTorch, in channels-last layout."""
  import torch
  from torch import nn
  from torch.nn import functional as F
  from torch.optim.swa_utils import get_ema_multi_avg_fn

  class Block(nn.Module):
    def __init__(self, features: int):
      super().__init__()
      self.convs = nn.ModuleList(conv(features, features) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
      h = x
      for layer in self.convs:
        h = layer(F.elu(h))
      return x + h

  class Masked(nn.Linear):
    def __init__(self, inputs: np.ndarray, outputs: np.ndarray):
      super().__init__(len(inputs), len(outputs))
      mask = (outputs[:, None] >= inputs[None]).astype(np.float32)
      self.register_buffer('mask', torch.from_numpy(mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
      return F.linear(x, self.weight * self.mask, self.bias)

  class Made(nn.Module):
    def __init__(self):
      super().__init__()
      inputs, hidden = np.arange(1, LATENTS + 1), np.arange(HIDDEN) % LATENTS
      self.hidden, self.context = Masked(inputs, hidden), nn.Linear(HIDDEN, HIDDEN)
      self.mean, self.log_scale = Masked(hidden, inputs - 1), Masked(hidden, inputs - 1)

    def forward(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
      h = F.elu(self.hidden(z) + self.context(context))
      return 0.1 * self.mean(h), 0.1 * self.log_scale(h)

  class Maps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
      return x.view(-1, 7, 7, MAPS[-1]).permute(0, 3, 1, 2)  # channels last in memory

  class Upsample(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
      return F.interpolate(F.elu(x), scale_factor=2)

  def conv(features_in: int, features: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(features_in, features, 3, stride, padding=1)

  def blocks(features: int) -> list[nn.Module]:
    return [Block(features) for _ in range(BLOCKS)]

  class Vae(nn.Module):
    def __init__(self):
      super().__init__()
      size = 49 * MAPS[-1]
      encoder, decoder = [conv(1, MAPS[0]), *blocks(MAPS[0])], blocks(MAPS[-1])
      for a, b in itertools.pairwise(MAPS):
        encoder += [conv(a, b, stride=2), *blocks(b)]
      for a, b in itertools.pairwise(MAPS[::-1]):
        decoder += [Upsample(), conv(a, b), *blocks(b)]
      dense, posterior = nn.Linear(size, HIDDEN), nn.Linear(HIDDEN, 2 * LATENTS + HIDDEN)
      self.encoder = nn.Sequential(*encoder, nn.ELU(), nn.Flatten(), dense, nn.ELU(), posterior)
      dense = [nn.Linear(LATENTS, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, size)]
      self.decoder = nn.Sequential(*dense, Maps(), *decoder, nn.ELU(), conv(MAPS[0], 1))
      self.flow = nn.ModuleList(Made() for _ in range(FLOW_STEPS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
      """The mean of the negative bound."""
      x = torch.bernoulli(images.float() / 255)
      mean, log_std, context = self.encoder(x - 0.5).split([LATENTS, LATENTS, HIDDEN], 1)
      noise = torch.randn_like(mean)
      z = mean + log_std.exp() * noise
      log_q = -(0.5 * noise**2 + log_std + 0.5 * math.log(2 * math.pi)).sum(1)
      for step in self.flow:
        m, s = step(z, context)
        z, log_q = ((z - m) * torch.exp(-s)).flip(1), log_q + s.sum(1)
      log_p = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
      logits = self.decoder(z)
      log_likelihood = (x * logits - F.softplus(logits)).sum((1, 2, 3))
      return -(log_likelihood + log_p - log_q).mean()

  device = stepper.torch_device()
  net = Vae().to(device, memory_format=torch.channels_last)
  params = list(net.parameters())
  average, update_average = [p.detach().clone() for p in params], get_ema_multi_avg_fn(0.9998)
  optimizer = torch.optim.Adamax(params, 0.002, foreach=True)
  images = torch.from_numpy(stepper.digits(row.batch)).to(device).permute(0, 3, 1, 2)
  loss_fn = torch.compile(net) if row.mode == 'compile' else net

  def step() -> None:
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=row.dtype == 'bfloat16'):
      loss = loss_fn(images)
    loss.backward()
    optimizer.step()
    update_average(average, params, None)

  return stepper.of_torch(step, device)
