"""The experiment from end to end on digits: every variant, golden values, resuming, likelihood."""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import config_dict

from configs import vae
from experiments.runtime.errors import UserError
from experiments.runtime.metrics import read_rows
from experiments.runtime.settings import flatten
from experiments.training import data
from experiments.training.state import TrainState
from experiments.vae import likelihood
from experiments.vae import train as train_lib
from experiments.vae.validate import validate
from tests import configurations, loops

KEY = jax.random.key(5)
DIGITS = [variant for variant in vae.VARIANTS if variant.startswith('digits')]


frozen = functools.partial(configurations.frozen, vae)


@pytest.mark.parametrize('variant', DIGITS)
def test_every_variant_runs_end_to_end_and_has_a_likelihood(variant, tmp_path, monkeypatch):
  settings = {}
  train_step = train_lib.train_step

  def recording(*args, ema_decay, free_bits, **kwargs):
    settings.update(ema_decay=ema_decay, free_bits=free_bits)
    return train_step(*args, ema_decay=ema_decay, free_bits=free_bits, **kwargs)

  monkeypatch.setattr(train_lib, 'train_step', recording)
  changes = {'run.diagnostics': variant.endswith('wn'), 'ema_epochs': 1.5, 'free_bits': 0.01}
  train_lib.train(frozen(f'{variant},tiny', changes), tmp_path)
  assert settings == {'ema_decay': 1 - 1 / (1.5 * 300 / 50), 'free_bits': 0.01}
  rows = read_rows(tmp_path / 'metrics.jsonl')
  tests = [row for row in rows if 'test/nll_bound' in row]
  assert [row['epoch'] for row in tests] == [1, 2]
  for row in tests:
    assert row['test/nll_bound'] == pytest.approx(row['test/reconstruction'] + row['test/kl'])
    assert row['test/bits_per_dim'] == pytest.approx(row['test/nll_bound'] / 64 / np.log(2))
  assert tests[1]['test/nll_bound'] < tests[0]['test/nll_bound'] < 64
  for name in ('bound', 'samples', 'reconstructions', 'traversals'):
    assert matplotlib.image.imread(tmp_path / f'{name}.png').std() > 0
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['data'] == data.load('digits').description
  assert summary['final'] == tests[-1]

  result = likelihood.evaluate(tmp_path, samples=50, batch=64)
  assert result == json.loads((tmp_path / 'likelihood-50.json').read_text())
  assert result['images'] == 500 and 0 < result['standard_error'] < 2
  assert -tests[-1]['test/nll_bound'] < result['log_likelihood'] < 0


@pytest.mark.parametrize('param', vae.PARAMS)
def test_resnet_vae_on_cifar10(param, tmp_path, needs_data, monkeypatch):
  needs_data('cifar10')
  dataset = data.load('cifar10')
  few = data.Split(dataset.test.images[:500], dataset.test.labels[:500])
  few = dataclasses.replace(dataset, test=few)
  monkeypatch.setattr(data, 'load', lambda *_: few)  # thousands of images take a minute
  config = frozen(f'cifar10-iaf-{param},tiny')
  train_lib.train(config, tmp_path)
  tests = [r for r in read_rows(tmp_path / 'metrics.jsonl') if 'test/nll_bound' in r]
  assert tests[1]['test/bits_per_dim'] < tests[0]['test/bits_per_dim'] < 12
  kls = [tests[1][f'test/kl_{i}'] for i in range(3)]
  assert sum(kls) == pytest.approx(tests[1]['test/kl'])
  for name in ('bound', 'samples', 'reconstructions'):
    assert matplotlib.image.imread(tmp_path / f'{name}.png').std() > 0


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  train_lib.train(frozen('digits-diag-wn,tiny', {'epochs': 1}), workdir)
  return workdir


def test_likelihood_goes_on_where_it_was_interrupted(trained, tmp_path, monkeypatch):
  shutil.copytree(trained, tmp_path / 'run')
  whole = likelihood.evaluate(tmp_path / 'run', samples=3, batch=100)
  lines = (tmp_path / 'run' / 'likelihood-3.jsonl').read_text()
  cut = lines[: len(lines) * 2 // 3]  # in the middle of a line
  (tmp_path / 'run' / 'likelihood-3.jsonl').write_text(cut)
  calls = []
  estimate = likelihood.log_likelihood
  count = lambda *args, **kwargs: jax.debug.callback(calls.append, 1) or estimate(*args, **kwargs)
  monkeypatch.setattr(likelihood, 'log_likelihood', count)
  assert likelihood.evaluate(tmp_path / 'run', samples=3, batch=100) == whole
  assert len(calls) == 2  # of five batches
  likelihood.evaluate(tmp_path / 'run', samples=3, batch=250)  # other batches: anew
  assert len(calls) == 4


def test_likelihood_of_another_training_or_other_data_takes_nothing_from_the_first(
  tmp_path, monkeypatch
):
  """Checkpoints of the same step, in the same directory."""
  first, second = tmp_path / 'first', tmp_path / 'second'
  for seed, workdir in enumerate((first, second)):
    train_lib.train(frozen('digits-diag-wn,tiny', {'epochs': 1, 'seed': seed}), workdir)
  evaluate = functools.partial(likelihood.evaluate, samples=3, batch=250)
  results = [evaluate(workdir) for workdir in (first, second)]
  assert results[0]['log_likelihood'] != results[1]['log_likelihood']
  shutil.rmtree(first / 'checkpoints')
  shutil.copytree(second / 'checkpoints', first / 'checkpoints')
  assert evaluate(first) == results[1]

  digits = data.load('digits')
  other = dataclasses.replace(digits, test=data.Split(255 - digits.test.images, digits.test.labels))
  monkeypatch.setattr(data, 'load', lambda *_: other)
  with pytest.raises(UserError, match=f'{digits.digest[:12]}, and digits is {other.digest[:12]}'):
    evaluate(first)


def test_likelihood_takes_any_path(trained, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(likelihood.interrupts, 'install', lambda: None)
  monkeypatch.setattr(likelihood.environment, 'prepare', lambda: None)
  (tmp_path / 'runs').mkdir()
  shutil.copytree(trained, tmp_path / 'run')
  for i, workdir in enumerate(('run', '~/run', 'runs/../run', str(tmp_path / 'run')), 1):
    monkeypatch.setattr(sys, 'argv', ['likelihood', '--workdir', workdir, '--samples', str(i)])
    likelihood.main()
    assert 'log p(x) = -' in capsys.readouterr().out
    assert (tmp_path / 'run' / f'likelihood-{i}.json').exists()
  assert likelihood.evaluate(Path('run'), samples=6, batch=100)['images'] == 500


# Bound on −log p(x), in nats, of one minibatch in the first three steps.
GOLDEN = {
  'digits-diag-plain': (44.494007, 44.455643, 44.36805),
  'digits-diag-wn': (44.494007, 44.444538, 44.437435),
  'digits-iaf-plain': (44.559753, 44.443455, 44.532951),
  'digits-iaf-wn': (44.55975, 44.555984, 44.488338),
}


@pytest.mark.parametrize('variant', DIGITS)
def test_first_steps_are_the_golden_ones(variant):
  config = frozen(f'{variant},tiny', {'optimizer.learning_rate': 0.05})  # three steps tell
  images = jax.random.randint(jax.random.key(1), (50, 8, 8, 1), 0, 256).astype(jnp.uint8)
  model = train_lib.create_model(config, (8, 8, 1), jax.random.key(3))
  scales = {'scale': config.init.scale, 'flow_scale': config.init.flow_scale}
  train_lib.initialize(model, images, jax.random.key(4), dataset='digits', **scales)
  graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
  optimizer = train_lib.create_optimizer(config)
  step = functools.partial(
    train_lib.train_step, graphdef=graphdef, optimizer=optimizer, dataset='digits',
    free_bits=0.0, ema_decay=0.9, with_diagnostics=False,
  )  # fmt: skip
  compiled = jax.jit(lambda state: step(state, np.arange(50), images, KEY))
  state = TrainState.create(params, model_state, optimizer, ema=True)
  values = []
  for _ in range(3):
    state, metrics = compiled(state)
    values.append(float(metrics['train/nll_bound']))
  np.testing.assert_allclose(
    values,
    GOLDEN[variant],
    rtol=2e-5,
    err_msg='the first training steps have changed; if that is intended, update GOLDEN',
  )
  # The moving average is behind the parameters by what its decay says.
  shift = lambda state: optax.tree.norm(optax.tree.sub(state.params, state.ema_params))
  assert 0 < shift(state) < 3 * 0.05 * np.sqrt(sum(p.size for p in jax.tree.leaves(params)))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch):
  changes = {'epochs': 4, 'run.checkpoint_every': 3, 'data.binarize': 'once'}
  config = frozen('digits-iaf-wn,tiny', changes)
  train_lib.train(config, tmp_path / 'whole')

  loops.stop_at(15, monkeypatch)
  with pytest.raises(loops.Stopped):
    train_lib.train(config, tmp_path / 'parts')
  monkeypatch.undo()
  train_lib.train(config, tmp_path / 'parts')
  for row, expected in zip(
    read_rows(tmp_path / 'parts' / 'metrics.jsonl'),
    read_rows(tmp_path / 'whole' / 'metrics.jsonl'),
    strict=True,
  ):
    row.pop('seconds'), expected.pop('seconds')
    assert row == expected


def test_configs_make_the_models_that_they_describe():
  model = nnx.eval_shape(
    lambda: train_lib.create_model(frozen('cifar10-iaf-wn'), (32, 32, 3), jax.random.key(0))
  )
  assert (len(model.layers), model.edge_bins) == (20, 'floor')
  assert model.encoder_in.log_scale == model.layers[0].flow.mean.log_scale == 3
  model = nnx.eval_shape(
    lambda: train_lib.create_model(frozen('mnist-iaf-wn'), (28, 28, 1), jax.random.key(0))
  )
  assert len(model.flow.steps) == 4 and model.encoder_in.log_scale == 0
  model = nnx.eval_shape(
    lambda: train_lib.create_model(frozen('mnist-diag-plain'), (28, 28, 1), jax.random.key(0))
  )
  assert model.flow is None and type(model.encoder_in) is nnx.Conv


@pytest.mark.parametrize(
  ('spec', 'key', 'value', 'message'),
  [
    ('digits-iaf-wn', 'variant.dataset', 'imagenet', 'choose one of mnist, digits, cifar10'),
    ('digits-iaf-wn', 'variant.dataset', 'cifar10', "no 'model.depths'"),
    ('digits-iaf-wn', 'variant.posterior', 'normal', 'choose one of diag, iaf'),
    ('digits-iaf-wn', 'variant.parameterization', 'bn', 'choose one of plain, wn'),
    ('digits-iaf-wn', 'data.binarize', 'never', 'choose one of anew, once'),
    ('digits-iaf-wn', 'model.maps', (2, 3), 'three numbers'),
    ('digits-iaf-wn', 'model.flow_steps', 0, '1 or more'),
    ('digits-iaf-wn', 'model.flow_width', 3, r'must be config\.model\.latents=32 or more'),
    ('cifar10-iaf-wn', 'model.edge_bins', 'none', 'choose one of floor, tails'),
    ('cifar10-iaf-wn', 'model.depths', (), 'numbers of layers'),
    ('cifar10-iaf-wn', 'model.z', 0, '1 or more'),
    ('cifar10-iaf-wn', 'layers.log_scale', -1.0, 'must not be negative'),
    ('cifar10-iaf-wn', 'layers.log_scale', float('nan'), 'must not be negative'),
    ('cifar10-iaf-wn', 'layers.init_std', 0.0, 'above 0'),
    ('cifar10-iaf-wn', 'layers.dtype', 'float16', 'choose one of float32, bfloat16'),
    ('cifar10-iaf-wn', 'init.examples', 0, '1 or more'),
    ('cifar10-iaf-wn', 'init.scale', 0.0, 'above 0'),
    ('cifar10-iaf-wn', 'init.flow_scale', -1.0, 'above 0'),
    ('cifar10-iaf-wn', 'optimizer.learning_rate', 0.0, 'above 0'),
    ('cifar10-iaf-wn', 'optimizer.eps', 0.0, 'above 0'),
    ('cifar10-iaf-wn', 'optimizer.b1', 1.0, 'below 1'),
    ('cifar10-iaf-wn', 'optimizer.b2', -0.1, 'at least 0'),
    ('cifar10-iaf-wn', 'ema_epochs', -1.0, 'must not be negative'),
    ('cifar10-iaf-wn', 'free_bits', -1.0, 'must not be negative'),
    ('cifar10-iaf-wn', 'batch_size', 0, '1 or more'),
    ('cifar10-iaf-wn', 'run.eval_batch_size', 0, '1 or more'),
  ],
)
def test_values_out_of_range_are_refused(spec, key, value, message):
  validate(frozen(spec))
  with pytest.raises(UserError, match=message) as error:
    validate(frozen(spec, {key: value}))
  assert key in str(error.value) or 'depths' in message


@pytest.mark.parametrize('spec', ['mnist-iaf-wn', 'cifar10-iaf-wn'])
def test_a_missing_value_is_named(spec):
  """Of every key: so each is checked, and by its own name."""
  config = vae.get_config(spec)
  keys = set(flatten(config.to_dict())) - {'experiment', 'protocol'}
  assert {'variant.dataset', 'model.z' if 'cifar10' in spec else 'model.maps'} < keys
  for key in keys:
    config = vae.get_config(spec)
    *section, last = key.split('.')
    del (config[section[0]] if section else config)[last]
    with pytest.raises(UserError, match=f"the config has no '{key}', which"):
      validate(config_dict.FrozenConfigDict(config))


def test_the_paper_s_size():
  """Hand count: two 3×3 convolutions a block, each of F² weights a position and F biases."""
  conv = lambda a, b, positions=9: a * b * positions + b
  blocks = lambda features: 4 * conv(features, features)
  encoder = conv(1, 16) + blocks(16) + conv(16, 32) + blocks(32) + conv(32, 32) + blocks(32)
  encoder += conv(1568, 450, 1) + conv(450, 64, 1)
  decoder = conv(32, 450, 1) + conv(450, 1568, 1) + blocks(32) + conv(32, 32) + blocks(32)
  decoder += conv(32, 16) + blocks(16) + conv(16, 1)
  model = train_lib.create_model(frozen('mnist-diag-plain'), (28, 28, 1), KEY)
  count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
  assert count == encoder + decoder


def test_images_that_cannot_be_halved_twice():
  digits = data.load('digits')
  images = digits.train.images[:, :6]
  odd = digits.__class__('odd', data.Split(images, digits.train.labels), digits.test, ())
  with pytest.raises(UserError, match='6×8; both must be divisible by 4'):
    validate(frozen('digits-iaf-wn,tiny'), odd)
