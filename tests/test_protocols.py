"""docs/PROTOCOLS.md says of every value of the `paper` protocols what the configs have."""

import ast
import re
from pathlib import Path

import pytest

from configs import cifar, dqn, draw, vae
from experiments.runtime import settings

TEXT = (Path(__file__).parent.parent / 'docs' / 'PROTOCOLS.md').read_text()
SECTIONS = {
  'CIFAR-10 classification': (cifar, 'wn'),
  'Convolutional VAE on MNIST': (vae, 'mnist-iaf-wn'),
  'ResNet VAE on CIFAR-10': (vae, 'cifar10-iaf-wn'),
  'DRAW': (draw, 'wn'),
  'Deep Q-learning': (dqn, 'space_invaders-wn'),
}
# What a run is called and how it is watched: nothing of it changes the result.
NOT_IN_THE_TABLES = ('experiment', 'protocol', 'seed', 'variant.', 'run.')


def rows(title):
  """(key, variant or '', value, source) of each row of the table of a section."""
  section = TEXT.split(f'\n## {title}')[1].split('\n## ')[0]
  cells = r'\| `([\w.]+)`(?: of `([\w-]+)`)? \| `([^|]+)` \| (P|C\d?|M|ours) \|'
  found = re.findall(cells, section)
  assert len(found) == section.count('\n| `')  # no row is written in another way
  return found


def paper(module, spec):
  flat = settings.flatten(module.get_config(spec))
  return {key: value for key, value in flat.items() if not key.startswith(NOT_IN_THE_TABLES)}


def literal(text):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text  # a string, written without quotes


@pytest.mark.parametrize('title', SECTIONS)
def test_every_value_is_the_config_s(title):
  module, spec = SECTIONS[title]
  expected = paper(module, spec)
  table = {key: literal(value) for key, variant, value, _ in rows(title) if not variant}
  assert table == expected
  assert [type(table[key]) for key in expected] == [type(value) for value in expected.values()]


@pytest.mark.parametrize('title', SECTIONS)
def test_the_variants_that_differ_are_named(title):
  """And no other one does, in any value."""
  module, spec = SECTIONS[title]
  of_spec = paper(module, spec)
  named = {(key, variant): literal(value) for key, variant, value, _ in rows(title) if variant}
  variants = [*spec.split('-')[:-1], '{}']
  for parameterization in cifar.VARIANTS if module is cifar else vae.PARAMS:
    other = paper(module, '-'.join(variants).format(parameterization))
    for key, value in other.items():
      assert named.get((key, parameterization), of_spec[key]) == value, (key, parameterization)


@pytest.mark.parametrize('title', SECTIONS)
def test_the_config_names_the_same_source(title):
  """(P), (C1) and the like in the comment of a line; without one the value is ours."""
  module, _ = SECTIONS[title]
  source = Path(module.__file__).read_text()
  for key, _, _, mark in rows(title):
    place = re.escape(key if '.' in key else f'config.{key}')
    lines = re.findall(rf'\n((?:  +#.*\n)*)  +{place} = (.*)\n', source)
    text = ' '.join(comment + line for comment, line in lines)
    marks = set(re.findall(r'\((P|C\d?|M)\)', text))
    assert mark in marks or (mark == 'ours' and ('ours' in text or not marks)), (key, mark, marks)
