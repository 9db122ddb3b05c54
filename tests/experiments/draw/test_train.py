"""The experiment from end to end on digits: every variant, golden values, resuming."""

import functools
import json

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from flax import nnx
from PIL import Image, ImageSequence

from configs import draw
from experiments.draw import animation
from experiments.draw import train as train_lib
from experiments.draw.attention import Window
from experiments.runtime import command_line
from experiments.runtime.metrics import read_rows
from experiments.training.state import TrainState
from tests import configurations, loops

KEY = jax.random.key(5)
SPECS = [f'{param}{option},tiny' for param in draw.PARAMS for option in ('', ',noattention')]


CHANGES = {'run.log_every': 1, 'run.checkpoint_every': 4}

frozen = functools.partial(configurations.frozen, draw)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """spec → the directory of its finished run, made when it is first asked for."""

  @functools.cache
  def run_(spec):
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    diagnostics = {'run.diagnostics': spec == 'wn,noattention,tiny'}
    train_lib.train(frozen(spec, CHANGES | diagnostics), workdir)
    return workdir

  return run_


@pytest.mark.parametrize('spec', SPECS)
def test_every_variant_runs_end_to_end(spec, run):
  tests = [row for row in read_rows(run(spec) / 'metrics.jsonl') if 'test/nll_bound' in row]
  assert [row['epoch'] for row in tests] == [1, 2, 3]
  for row in tests:
    assert row['test/nll_bound'] == pytest.approx(row['test/reconstruction'] + row['test/kl'])
    assert row['test/kl'] == pytest.approx(sum(row[f'test/kl_{t}'] for t in range(4)))
  bounds = [row['test/nll_bound'] for row in tests]
  assert 0 < bounds[2] < bounds[1] < bounds[0] < 64 * np.log(2)
  summary = json.loads((run(spec) / 'summary.json').read_text())
  assert summary['final'] == tests[-1]


@pytest.mark.parametrize('spec', SPECS)
def test_pictures(spec, run):
  for name in ('bound', 'samples', 'kl_per_glimpse'):
    assert matplotlib.image.imread(run(spec) / f'{name}.png').std() > 0
  for name in ('drawing', 'reconstruction'):
    with Image.open(run(spec) / f'{name}.gif') as film:
      frames = [np.asarray(frame.convert('RGB')) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 4
    has_color = any(np.ptp(frame, axis=-1).max() > 0 for frame in frames)
    assert has_color == ('noattention' not in spec)


# Bound on −log p(x), in nats, of the first three minibatches.
GOLDEN = {
  'plain,tiny': (44.361401, 44.142635, 43.859726),
  'wn,tiny': (44.866894, 44.717098, 43.836208),
  'plain,noattention,tiny': (44.361404, 43.08633, 41.976456),
  'wn,noattention,tiny': (47.196003, 48.487324, 36.178371),
}


@pytest.mark.parametrize('spec', SPECS)
def test_first_steps_are_the_golden_ones(spec, run):
  np.testing.assert_allclose(
    [row['train/nll_bound'] for row in read_rows(run(spec) / 'metrics.jsonl')[:3]],
    GOLDEN[spec],
    rtol=2e-5,
    err_msg='the first training steps have changed; if that is intended, update GOLDEN',
  )


def test_the_gradient_is_clipped_to_its_norm():
  optimizer = train_lib.create_optimizer(frozen('wn,tiny', {'optimizer.clip_norm': 10.0}))
  params = {'a': jnp.zeros(2), 'b': jnp.zeros(())}
  state = lambda gradients: optimizer.update(gradients, optimizer.init(params), params)[1]
  first_moment = lambda gradients: jax.tree.leaves(state(gradients))[1:3]
  large = {'a': jnp.array([300.0, 0.0]), 'b': jnp.array(-400.0)}  # norm 500
  np.testing.assert_allclose(
    np.concatenate([np.ravel(m) for m in first_moment(large)]), [0.6, 0, -0.8]
  )


def test_a_resumed_run_is_the_uninterrupted_one(run, tmp_path, monkeypatch):
  config = frozen('wn,tiny', CHANGES)

  loops.stop_at(11, monkeypatch)
  with pytest.raises(loops.Stopped):
    train_lib.train(config, tmp_path)
  monkeypatch.undo()
  train_lib.train(config, tmp_path)
  for row, expected in zip(
    read_rows(tmp_path / 'metrics.jsonl'),
    read_rows(run('wn,tiny') / 'metrics.jsonl'),
    strict=True,
  ):
    row.pop('seconds'), expected.pop('seconds')
    assert row == expected


def test_evaluation_is_the_bound_of_every_test_image_once():
  config = frozen('wn,tiny')
  model = train_lib.create_model(config, (8, 8, 1), KEY)
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  state = TrainState.create(params, model_state, train_lib.create_optimizer(config), ema=False)
  x = jax.random.bernoulli(KEY, 0.3, (10, 8, 8, 1)).astype(jnp.float32)
  weights = np.array([1.0] * 9 + [0.0], np.float32)
  sums = train_lib.eval_step(state, np.arange(10), weights, x, KEY, graphdef=graphdef)
  bound = model(x, jax.random.fold_in(KEY, 0))
  metrics = train_lib.test_metrics(jax.device_get(sums), 9)
  assert metrics['test/nll_bound'] == pytest.approx(-float(jnp.mean(bound.elbo[:9])), rel=1e-5)
  assert metrics['test/kl_2'] == pytest.approx(float(jnp.mean(bound.kl[:9, 2])), rel=1e-4)


def test_the_size_of_the_paper_s_network():
  """Hand count: an LSTM has 4 gates, each with two matrices and one bias, and 3 peepholes."""
  lstm = lambda inputs, units: 4 * (inputs * units + units * units + units) + 3 * units
  linear = lambda inputs, outputs: inputs * outputs + outputs
  count = lstm(2 * 2 * 2 + 256, 256) + 2 * linear(256, 100) + lstm(100, 256)
  count += 2 * linear(256, 5) + linear(256, 25)
  scales = 2 * 8 * 256 + 2 * 100 + 2 * 5 + 25
  for param, expected in (('plain', count), ('wn', count + scales)):
    model = nnx.eval_shape(lambda p=param: train_lib.create_model(frozen(p), (28, 28, 1), KEY))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == expected


def test_windows_are_outlined_where_they_are():
  """A 4×4 window of stride 2 and σ = 1 around the middle of a 10×10 image, each pixel 3×3."""
  frames = animation.enlarge(np.zeros((1, 1, 10, 10, 1)), 3)
  fields = {'center_x': 5.5, 'center_y': 4.5, 'stride': 2, 'log_variance': 0, 'log_intensity': 0}
  window = Window(**{name: np.full((1, 1), value, float) for name, value in fields.items()})
  outlined = animation.outline(frames, window, 4, 3, animation.RED)[0, 0]
  rows, columns = np.nonzero(outlined == animation.RED)
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 21, 6, 24)
  assert outlined[12, 6:9].tolist() == [animation.RED] * 3 and outlined[12, 9] != animation.RED


def test_a_window_is_not_looked_at_without_attention(tmp_path):
  config = frozen('wn,noattention,tiny', {'model.read_window': 9})
  train_lib.validate(config, train_lib.data.load('digits'))


def test_runs_without_attention_have_directories_of_their_own():
  config = frozen('wn,noattention,scaled', {'seed': 2})
  assert command_line.default_workdir(config) == 'runs/draw/wn-noattention-scaled/seed2'
