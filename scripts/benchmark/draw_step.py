"""A training step of DRAW with attention (`configs/draw.py:PARAM`) in JAX and PyTorch.

Both do the same work: bits, 64 glimpses, bound, clipped gradient, Adam.
"""

import numpy as np

from scripts.benchmark import stepper
from scripts.benchmark.stepper import Stepper
from scripts.benchmark.worker import Row

GLIMPSES, UNITS, LATENTS, READ, WRITE, SIZE = 64, 256, 100, 2, 5, 28


def build(row: Row) -> Stepper:
  """The steps of a row; imports only its framework."""
  return {'jax': _jax_step, 'torch': _torch_step}[row.framework](row)


def _jax_step(row: Row) -> Stepper:
  """The training step of `experiments.draw`."""
  import jax
  from ml_collections import config_dict

  from configs import draw
  from experiments.draw import train
  from experiments.training import devices
  from experiments.training.state import TrainState

  config = draw.get_config(row.variant)
  config.batch_size = row.batch
  config.model.dtype = row.dtype
  config = config_dict.FrozenConfigDict(config)
  images = jax.device_put(stepper.digits(row.batch))
  model = train.create_model(config, images.shape[1:], jax.random.key(0))
  optimizer = train.create_optimizer(config)
  graphdef, state = TrainState.of(model, optimizer)
  step, _ = train.compile_steps(config, graphdef, optimizer, devices.data_mesh(row.batch))
  return stepper.of_jax(step, state, (np.arange(row.batch), images, jax.random.key(1)))


def _torch_step(row: Row) -> Stepper:
  """The same network, unnormalized, in PyTorch; 'compile' compiles a glimpse."""
  import torch
  from torch import nn
  from torch.nn import functional as F

  class Lstm(nn.Module):
    """With peepholes; the products of the four gates are one."""

    def __init__(self, features: int):
      super().__init__()
      self.gates = nn.Linear(features + UNITS, 4 * UNITS)
      self.peepholes = nn.Parameter(0.01 * torch.randn(3, UNITS))

    def forward(
      self, x: torch.Tensor, c: torch.Tensor, h: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
      i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
      i, f = torch.sigmoid(i + self.peepholes[0] * c), torch.sigmoid(f + self.peepholes[1] * c)
      c = f * c + i * torch.tanh(g)
      return c, torch.sigmoid(o + self.peepholes[2] * c) * torch.tanh(c)

  def filters(parameters: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """F_Y and F_X [B, size, pixels], and γ [B, 1, 1]."""
    x, y, log_variance, log_stride, log_intensity = parameters[:, :, None].unbind(1)
    grid = torch.arange(size, device=parameters.device) - (size - 1) / 2
    pixels = torch.arange(1, SIZE + 1, device=parameters.device)

    def bank(center: torch.Tensor) -> torch.Tensor:
      means = (SIZE + 1) / 2 * (center + 1) + (SIZE - 1) / (size - 1) * log_stride.exp() * grid
      distances = (pixels - means[..., None]) * torch.exp(-log_variance / 2)[..., None]
      weights = torch.exp(-(distances**2) / 2)
      return weights / (weights.sum(2, keepdim=True) + 1e-4)

    return bank(y), bank(x), log_intensity.exp()[..., None]

  class Draw(nn.Module):
    def __init__(self):
      super().__init__()
      self.encoder, self.decoder = Lstm(2 * READ**2 + UNITS), Lstm(LATENTS)
      self.posterior = nn.Linear(UNITS, 2 * LATENTS)
      self.read, self.write = nn.Linear(UNITS, 5), nn.Linear(UNITS, 5)
      self.patch = nn.Linear(UNITS, WRITE**2)
      self.glimpse = torch.compile(self.one_glimpse) if row.mode == 'compile' else self.one_glimpse

    def one_glimpse(
      self, x: torch.Tensor, noise: torch.Tensor, canvas: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
      """The new canvas and states, and the KL [B]."""
      c_encoder, h_encoder, c, h = states
      rows, columns, intensity = filters(self.read(h), READ)
      both = torch.stack([x, x - torch.sigmoid(canvas)], 1)
      patches = rows[:, None] @ both @ columns[:, None].mT * intensity[:, None]
      inputs = torch.cat([patches.flatten(1), h], 1)
      c_encoder, h_encoder = self.encoder(inputs, c_encoder, h_encoder)
      mean, log_std = self.posterior(h_encoder).chunk(2, 1)
      kl = (0.5 * (mean**2 + torch.exp(2 * log_std) - 1) - log_std).sum(1)
      c, h = self.decoder(mean + log_std.exp() * noise, c, h)
      rows, columns, intensity = filters(self.write(h), WRITE)
      patch = self.patch(h).view(-1, WRITE, WRITE) / intensity
      return canvas + rows.mT @ patch @ columns, c_encoder, h_encoder, c, h, kl

    def forward(self, images: torch.Tensor) -> torch.Tensor:
      """The mean of the negative bound."""
      x = torch.bernoulli(images.float() / 255)
      zeros = torch.zeros(len(x), UNITS, device=x.device)
      carry, kl = (torch.zeros_like(x), *[zeros] * 4), 0.0
      for noise in torch.randn(GLIMPSES, len(x), LATENTS, device=x.device):
        *carry, change = self.glimpse(x, noise, *carry)
        kl = kl + change
      canvas = carry[0]
      return (F.softplus(canvas) - x * canvas).sum((1, 2)).mean() + kl.mean()

  device = stepper.torch_device()
  net = Draw().to(device)
  optimizer = torch.optim.Adam(net.parameters(), 3e-4, fused=True)
  images = torch.from_numpy(stepper.digits(row.batch)[..., 0]).to(device)

  def step() -> None:
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=row.dtype == 'bfloat16'):
      loss = net(images)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 10.0)
    optimizer.step()

  return stepper.of_torch(step, device)
