"""Every configuration can be made, every key is read, and every key that is read exists."""

import re
from pathlib import Path

import pytest

from configs import cifar, vae
from configs import spec as spec_lib

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


@pytest.mark.parametrize(
  'experiment, configs',
  [
    ('cifar', [cifar.get_config('wn')]),
    ('vae', [vae.get_config('mnist-iaf-wn'), vae.get_config('cifar10-iaf-wn')]),
  ],
)
def test_keys_are_those_that_are_read(experiment, configs):
  sources = [
    *(ROOT / 'experiments' / experiment).glob('*.py'),
    *(ROOT / 'experiments/training').glob('*'),
  ]
  text = '\n'.join(path.read_text() for path in sources if path.suffix == '.py')
  text = text.replace(r'config.KEY', '').replace('config.json', '').replace('config.to_json', '')
  read = set(re.findall(r'\bconfig\.([a-z]\w*)', text))
  assert read == {key for config in configs for key in config}


@pytest.mark.parametrize(
  'spec, message',
  [
    ('wm', "unknown variant 'wm'.*Did you mean 'wn'"),
    ('wn,scald', "unknown protocol 'scald'.*Did you mean 'scaled'"),
    ('wn,scaled,tiny', 'too many parts'),
    ('', 'unknown variant'),
  ],
)
def test_bad_specs_are_explained(spec, message):
  with pytest.raises(ValueError, match=message):
    spec_lib.split(spec, cifar.VARIANTS, cifar.PROTOCOLS)
