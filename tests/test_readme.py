"""What README.md promises: the example runs, the commands and numbers are those of the code."""

import inspect
import re
from pathlib import Path

import numpy as np
from flax import nnx

import wn

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_example_says_what_it_prints(capsys):
  (example,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names = {'__name__': 'example'}
  exec(compile(example, 'README.md', 'exec'), names)
  before, mean, std = map(float, capsys.readouterr().out.split())
  assert f'print(model(x).std())  # {before:.1f}:' in example
  assert abs(mean) < 1e-5 and abs(std - 1) < 1e-5
  model, plain, x = names['model'], names['plain'], names['x']
  assert type(plain.layers[0]) is nnx.Linear and type(model.layers[0]) is wn.Linear
  np.testing.assert_allclose(plain(x), model(x), rtol=1e-5, atol=1e-5)


def test_links_exist():
  for link in re.findall(r'\]\((?!http)([^)#]+)\)', README):
    assert (ROOT / link).exists(), link


def test_every_public_name_is_in_the_reference():
  reference = (ROOT / 'docs' / 'api.md').read_text().splitlines()
  public = [name for name, value in vars(wn).items() if not inspect.ismodule(value)]
  for name in public:
    assert name.startswith('_') or f'::: wn.{name}' in reference, name


def test_every_public_name_has_an_example_in_its_docstring():
  for name in wn.__all__:
    if not inspect.ismodule(getattr(wn, name)):
      assert 'Example::' in getattr(wn, name).__doc__, name
