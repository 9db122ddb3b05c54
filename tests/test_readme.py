"""What README.md promises: the example runs, the commands and numbers are those of the code."""

import inspect
import re
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import wn

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_example_swaps_initialises_trains_and_folds():
  (example,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names = {'__name__': 'example'}
  exec(compile(example, 'README.md', 'exec'), names)
  model, plain, x = names['model'], names['plain'], names['x']
  assert type(plain.hidden) is nnx.Linear and type(model.hidden) is wn.Linear
  np.testing.assert_allclose(plain(x), model(x), rtol=1e-5, atol=1e-6)
  for gradient in jax.tree.leaves(names['gradients']):
    assert np.abs(gradient).max() > 0  # g, v and b all train


def test_links_and_folders_exist():
  for link in re.findall(r'\]\((?!http)([^)#]+)\)', README):
    assert (ROOT / link).exists(), link
  layout = README.split('## Layout')[1].split('```')[1]
  for folder in re.findall(r'^(\w+)/', layout, re.MULTILINE):
    assert (ROOT / folder).is_dir(), folder


def test_every_public_name_is_in_the_table():
  public = [name for name, value in vars(wn).items() if not inspect.ismodule(value)]
  for name in public:
    assert name.startswith('_') or f'wn.{name}' in README, name
