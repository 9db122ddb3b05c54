"""Every configuration can be made, every key is read, and every key that is read exists."""

import re
from pathlib import Path

import pytest

from configs import cifar, dqn, draw, vae

ROOT = Path(__file__).parent.parent
CIFAR_SPECS = [f'{v},{p}' for v in cifar.VARIANTS for p in cifar.PROTOCOLS]


@pytest.mark.parametrize('spec', [*cifar.VARIANTS, *CIFAR_SPECS])
def test_cifar_config_names_its_variant_and_protocol(spec):
  config = cifar.get_config(spec)
  variant, _, protocol = spec.partition(',')
  assert (config.variant, config.protocol) == (variant, protocol or 'paper')


def test_the_protocols_differ_only_in_size():
  paper, scaled = cifar.get_config('wn'), cifar.get_config('wn,scaled')
  differing = {key for key in paper if paper[key] != scaled[key]}
  assert differing == {'protocol', 'width', 'epochs'}


VAE_SPECS = [f'{v},{p}' for v in vae.VARIANTS for p in vae.PROTOCOLS]


@pytest.mark.parametrize('spec', [*vae.VARIANTS, *VAE_SPECS])
def test_vae_config_names_its_variant_and_protocol(spec):
  config = vae.get_config(spec)
  variant, _, protocol = spec.partition(',')
  assert (config.variant, config.protocol) == (variant, protocol or 'paper')
  assert config.variant == f'{config.dataset}-{config.posterior}-{config.param}'


@pytest.mark.parametrize('protocol', ['', *draw.PROTOCOLS])
@pytest.mark.parametrize('option', ['', *draw.OPTIONS])
@pytest.mark.parametrize('param', draw.PARAMS)
def test_draw_config_names_its_variant_and_protocol(param, option, protocol):
  config = draw.get_config(','.join(filter(None, [param, option, protocol])))
  assert config.variant == '-'.join(filter(None, [param, option]))
  assert config.variant in draw.VARIANTS
  assert config.protocol == (protocol or 'paper')
  assert (config.param, config.attention) == (param, not option)


def test_the_parameterisations_of_draw_differ_in_nothing_else():
  plain, wn = draw.get_config('plain'), draw.get_config('wn')
  assert {key for key in plain if plain[key] != wn[key]} == {'variant', 'param'}


@pytest.mark.parametrize('protocol', ['', ',paper', ',scaled', ',tiny'])
@pytest.mark.parametrize('variant', ['breakout-plain', 'space_invaders-wn'])
def test_dqn_config_names_its_variant_and_protocol(variant, protocol):
  config = dqn.get_config(variant + protocol)
  assert (config.variant, config.protocol) == (variant, protocol[1:] or 'paper')
  assert config.variant == f'{config.game}-{config.param}'


@pytest.mark.parametrize('module', [cifar, dqn, draw, vae])
def test_trials_of_sweeps_are_of_known_specs_and_keys(module):
  for trials in module.SWEEPS.values():
    for spec, overrides in trials:
      assert overrides.keys() <= set(module.get_config(spec)) and 'seed' in overrides


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
  own, shared = (keys_read(ROOT / 'experiments' / room) for room in (experiment, 'training'))
  keys = {key for config in configs for key in config}
  assert own <= keys <= own | shared
  if experiment != 'dqn':  # which has no data set
    assert shared <= keys


def keys_read(room):
  text = '\n'.join(path.read_text() for path in room.glob('*.py'))
  for other in ('config.KEY', 'config.json', 'config.to_json', 'jax.config.update'):
    text = text.replace(other, '')
  return set(re.findall(r'\bconfig\.([a-z]\w*)', text))
