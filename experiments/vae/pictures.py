"""Pictures of a finished run: the bound, samples, reconstructions and latent traversals."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.training import pictures
from experiments.vae.conv_vae import ConvVAE
from experiments.vae.resnet_vae import ResNetVAE

_COUNT = 64  # samples
_STEPS = 9  # of a traversal


def write(workdir: Path, model: ConvVAE | ResNetVAE, test_x: jax.Array, key: jax.Array) -> None:
  """Writes `bound.png`, `samples.png`, `reconstructions.png` and `traversals.png` into the run.

  Only the convolutional VAE, whose latents are a vector, has traversals.

  Args:
    workdir: directory of the run.
    model: the evaluation model.
    test_x: [N, H, W, C] test images, preprocessed for the model.
    key: random key of the samples.
  """
  pictures.bound(workdir).savefig(workdir / 'bound.png', dpi=150)
  samples = nnx.jit(lambda model: model.sample(key, _COUNT))(model)
  rebuilt = nnx.jit(lambda model: model.reconstruct(test_x[:16], key))(model)
  shown = test_x[:16] + (0.5 if isinstance(model, ResNetVAE) else 0)
  grids = [
    ('samples', samples, 8),
    ('reconstructions', np.concatenate([shown, rebuilt]), 16),  # below the images
  ]
  if isinstance(model, ConvVAE):
    grids.append(('traversals', traversals(model, test_x[:1]), _STEPS))
  for name, images, columns in grids:
    pictures.save_grid(workdir / f'{name}.png', np.asarray(images), columns)


def traversals(model: ConvVAE, x: jax.Array, count: int = 10) -> np.ndarray:
  """Images decoded from the code of x [1, H, W, C], with one latent moved from −3 to 3 per row.

  Shows the (at most) `count` latents that change the image most.
  """

  def decode(model: ConvVAE) -> jax.Array:
    mean, _, context = model.encode(x)
    z = mean if model.flow is None else model.flow(mean, context)[0]
    values = jnp.linspace(-3, 3, _STEPS)

    def moved(latent: jax.Array) -> jax.Array:
      return jax.vmap(z[0].at[latent].set)(values)  # [steps, latents]

    codes = jax.vmap(moved)(jnp.arange(z.shape[-1]))  # [latents, steps, latents]
    images = jax.nn.sigmoid(model.decode(codes.reshape(-1, z.shape[-1])))
    return images.reshape(*codes.shape[:2], *images.shape[1:])

  images = np.asarray(nnx.jit(decode)(model))  # [latents, steps, H, W, C]
  change = np.abs(images[:, -1] - images[:, 0]).sum(axis=(1, 2, 3))
  rows = np.argsort(-change)[:count]
  return images[rows].reshape(-1, *images.shape[2:])
