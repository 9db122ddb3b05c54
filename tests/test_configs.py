"""Every configuration can be made, every key is read, and every key that is read exists."""

import itertools
import re
from pathlib import Path

import pytest

from configs import cifar, dqn, draw, vae, variants
from experiments.runtime import settings

ROOT = Path(__file__).parent.parent
CIFAR_SPECS = [f'{v},{p}' for v in cifar.VARIANTS for p in cifar.PROTOCOLS]
VAE_SPECS = [f'{v},{p}' for v in vae.VARIANTS for p in vae.PROTOCOLS]


def differing(first, second):
  """The keys, such as 'model.width', whose values differ."""
  first, second = settings.flatten(first), settings.flatten(second)
  assert first.keys() == second.keys()
  return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize(
  'module, spec',
  [
    *((cifar, spec) for spec in [*cifar.VARIANTS, *CIFAR_SPECS]),
    *((vae, spec) for spec in [*vae.VARIANTS, *VAE_SPECS]),
    *(
      (dqn, variant + protocol)
      for variant in ('breakout-plain', 'space_invaders-wn')
      for protocol in ('', ',paper', ',scaled', ',tiny')
    ),
  ],
)
def test_a_config_names_its_variant_and_protocol(module, spec):
  config = module.get_config(spec)
  variant, _, protocol = spec.partition(',')
  assert (settings.variant(config), config.protocol) == (variant, protocol or 'paper')


@pytest.mark.parametrize('protocol', ['', *draw.PROTOCOLS])
@pytest.mark.parametrize('option', ['', *draw.OPTIONS])
@pytest.mark.parametrize('param', draw.PARAMS)
def test_draw_config_names_its_variant_and_protocol(param, option, protocol):
  config = draw.get_config(','.join(filter(None, [param, option, protocol])))
  assert settings.variant(config) == '-'.join(filter(None, [param, option]))
  assert settings.variant(config) in draw.VARIANTS
  assert config.protocol == (protocol or 'paper')


def test_protocols_differ_in_size_and_length_only():
  paper, fifty, scaled = (cifar.get_config(f'wn,{p}') for p in ('paper', 'fifty', 'scaled'))
  assert differing(paper, fifty) == {'protocol', 'model.width', 'epochs'}
  assert differing(fifty, scaled) == {'protocol', 'epochs'}
  changed = differing(dqn.get_config('breakout-wn'), dqn.get_config('breakout-wn,scaled'))
  assert changed == {
    'protocol', 'epochs', 'steps_per_epoch', 'replay.capacity', 'replay.learning_starts',
    'learning.target_period', 'exploration.delay', 'exploration.steps', 'evaluation.steps',
    'run.log_every', 'run.checkpoint_every',
  }  # fmt: skip


def test_parameterizations_differ_in_nothing_else():
  """But for the learning rate, where the paper chose one for each."""
  name, rate = 'variant.parameterization', 'optimizer.learning_rate'
  for module, form, expected in (
    (draw, '{}', {name}),
    (vae, 'mnist-iaf-{}', {name}),
    (vae, 'cifar10-iaf-{},scaled', {name}),
    (cifar, '{}', {name, rate}),
    (cifar, '{},digits', {name}),
    (dqn, 'breakout-{}', {name, rate}),
  ):
    plain, wn = (module.get_config(form.format(p)) for p in ('plain', 'wn'))
    assert differing(plain, wn) == expected, form


def test_learning_rates_are_those_of_figure_1():
  rates = {v: cifar.get_config(v).optimizer.learning_rate for v in cifar.VARIANTS}
  assert rates == {
    'plain': 0.0003, 'wn': 0.003, 'bn': 0.003, 'mean_bn': 0.003, 'wn_mean_bn': 0.003,
    'plain_released': 0.001,
  }  # fmt: skip
  assert {rates[variant] for variant in rates} <= set(cifar.RATES)


@pytest.mark.parametrize(
  'module, lists',
  [
    (cifar, [variants.CIFAR_PARAMETERIZATIONS]),
    (vae, [variants.VAE_DATASETS, variants.VAE_POSTERIORS, variants.PARAMETERIZATIONS]),
    (draw, [variants.PARAMETERIZATIONS, variants.DRAW_OPTIONS]),
    (dqn, [variants.DQN_GAMES, variants.PARAMETERIZATIONS]),
  ],
)
def test_the_help_names_all_that_can_be_chosen(module, lists):
  """It is the docstring of the config file."""
  for name in itertools.chain(*lists):
    assert f'`{name}`' in module.__doc__, name
  for protocol in module.PROTOCOLS:
    assert re.search(rf'^  {protocol}  ', module.__doc__, re.MULTILINE), protocol


@pytest.mark.parametrize('module', [cifar, dqn, draw, vae])
def test_trials_of_sweeps_are_of_known_specs_and_keys(module):
  for trials in module.SWEEPS.values():
    for spec, overrides in trials:
      assert overrides.keys() <= set(settings.flatten(module.get_config(spec)))
      assert 'seed' in overrides


@pytest.mark.parametrize(
  'experiment, configs',
  [
    ('cifar', [cifar.get_config('wn')]),
    ('vae', [vae.get_config('mnist-iaf-wn'), vae.get_config('cifar10-iaf-wn')]),
    ('draw', [draw.get_config('wn')]),
    ('dqn', [dqn.get_config('breakout-wn')]),
  ],
)
def test_keys_are_those_that_are_read(experiment, configs):
  """By `config.a.b`, by `values.b` of an alias of the section a, or as keyword arguments by **."""
  text = ''.join(code(ROOT / 'experiments' / room) for room in (experiment, 'training', 'runtime'))
  unpacked = set(re.findall(r'\*\*(?:self\.)?config\.(\w+)', text))
  keys = {key for config in configs for key in settings.flatten(config)}
  for key in keys:
    section, _, name = key.rpartition('.')
    assert section in unpacked or re.search(rf'\.{name}\b', text), key
  sections = {key.split('.')[0] for key in keys}
  for section, name in re.findall(
    r'\bconfig\.(\w+)\.(\w+)', code(ROOT / 'experiments' / experiment)
  ):
    assert section not in sections or f'{section}.{name}' in keys, (section, name)


def code(room):
  """All of a room but what only checks values."""
  files = (path for path in room.glob('*.py') if path.name != 'validate.py')
  return '\n'.join(path.read_text() for path in files)
