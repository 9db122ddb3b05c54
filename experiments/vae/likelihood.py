"""Log-likelihood of the test set by importance sampling (Burda et al. 2016, Eq. 8).

  python -m experiments.vae.likelihood --workdir runs/vae/mnist-iaf-wn/seed0 --samples 128

Estimates log p(x) ≈ log 1/K Σ p(x, zₖ)/q(zₖ|x) with the latest checkpoint of a run. The estimate
grows with K, from the lower bound at K = 1 to log p(x). Writes `likelihood-K.json` into the run.
Rerun the same command to resume.
"""

import contextlib
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx
from ml_collections import config_dict

from experiments import results
from experiments.runtime import checkpoints, environment, interrupts
from experiments.runtime.errors import (
  ArgumentParser,
  UserError,
  one_line_errors,
  user_path,
  writing,
)
from experiments.runtime.partial_results import PartialResults
from experiments.runtime.workdir import check_data, write_json
from experiments.training import data
from experiments.vae.conv_vae import ConvVAE
from experiments.vae.images import test_images
from experiments.vae.resnet_vae import ResNetVAE
from experiments.vae.train import restore_model
from experiments.vae.validate import validate


def main() -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m experiments.vae.likelihood')
  parser.add_argument('--workdir', type=user_path, required=True, help='directory of the run')
  parser.add_argument('--samples', type=int, default=128, help='K, samples per image')
  parser.add_argument('--batch', type=int, default=100, help='images per batch')
  parser.add_argument('--data_dir', help='folder of the data sets')
  with one_line_errors():
    args = parser.parse_args()
    for name in ('samples', 'batch'):
      if getattr(args, name) < 1:
        raise UserError(f'--{name} {getattr(args, name)}: give 1 or more.')
    interrupts.install()
    environment.prepare()
    result = evaluate(args.workdir, args.samples, args.batch, args.data_dir)
    print(
      f'log p(x) = {result["log_likelihood"]:.2f} ± {result["standard_error"]:.2f} nats '
      f'({args.samples} samples per image, {result["images"]} images)'
    )


def evaluate(
  workdir: Path, samples: int, batch: int, data_dir: str | None = None
) -> dict[str, float]:
  """Estimates the log-likelihood and writes it into the run.

  Args:
    workdir: directory of the run.
    samples: K, per image.
    batch: images per batch.
    data_dir: folder of the data sets.

  Returns:
    `log_likelihood`, the mean over the test images in nats, and its `standard_error`;
    `bits_per_dim`; `samples`; `images`; `step` and checksum of the `checkpoint`; digest of the
    `data`.

  Raises:
    UserError: there is no such run, it has no checkpoint, or it was trained on other data.
  """
  run = results.read_of('vae', workdir)
  config = config_dict.FrozenConfigDict(run.config)
  validate(config)
  if not (workdir / 'checkpoints').is_dir():
    raise UserError(f'there are no checkpoints in {workdir}/checkpoints.')
  dataset = data.load(config.variant.dataset, data_dir)
  check_data(workdir, dataset.description)
  test_x = test_images(dataset)
  model, step = restore_model(config, workdir, test_x.shape[1:])
  graphdef, state = nnx.split(model)
  estimate = jax.jit(functools.partial(log_likelihood, graphdef, samples=samples))

  starts = range(0, len(test_x), batch)
  measured = {
    'checkpoint': checkpoints.checksum(workdir / 'checkpoints', step),
    'data': dataset.digest,
  }
  path, key = workdir / f'likelihood-{samples}.jsonl', {**measured, 'batch': batch}
  with contextlib.closing(PartialResults(path, key)) as parts:
    for start in tqdm.tqdm(starts, unit='batch', disable=None):
      if start in parts.done:
        continue
      x = test_x[start : start + batch]
      filled = np.resize(x, (batch, *x.shape[1:]))  # the same shape for every batch
      values = estimate(state, filled, jax.random.fold_in(jax.random.key(samples), start))
      parts.add(start, np.asarray(values)[: len(x)].tolist())
  values = np.concatenate([parts.done[start] for start in starts])
  result = {
    'log_likelihood': float(values.mean()),
    'standard_error': float(values.std(ddof=1) / np.sqrt(len(values))),
    'bits_per_dim': float(-values.mean() / (np.prod(test_x.shape[1:]) * np.log(2))),
    'samples': samples,
    'images': len(values),
    'step': step,
    **measured,
  }
  with writing(workdir / f'likelihood-{samples}.json') as path:
    write_json(path, result)
  return result


def log_likelihood(
  graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array, key: jax.Array, *, samples: int
) -> jax.Array:
  """Importance-sampled log p(x) [B] of images x [B, H, W, C], in nats."""
  model: ConvVAE | ResNetVAE = nnx.merge(graphdef, state)
  posterior = model.encode(x)

  def log_weight(key: jax.Array) -> jax.Array:
    return model.bound(x, posterior, key).log_weight

  log_weights = jax.lax.map(log_weight, jax.random.split(key, samples))  # [K, B]
  return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(samples)


if __name__ == '__main__':
  main()
