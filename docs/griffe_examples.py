"""Griffe extension: has the site show `Example::` in a docstring as code."""

import re

import griffe

# The lines after `Example::` that are indented, or empty.
_EXAMPLE = re.compile(r'^(\s*)Example::\n\n((?:\1  .*\n?|\n)+)', re.MULTILINE)


class Examples(griffe.Extension):
  """Turns blocks of reStructuredText into those of Markdown."""

  def on_object(self, *, obj: griffe.Object, **_) -> None:
    """Called for every object of the package."""
    if obj.docstring:
      obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(match: re.Match) -> str:
  indent = match[1]
  code = '\n'.join(line.removeprefix(f'{indent}  ') for line in match[2].rstrip().split('\n'))
  return f'{indent}```python\n{code}\n```\n\n'
