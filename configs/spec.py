"""Reads the part of `--config configs/NAME.py:SPEC` after the colon."""

import difflib
from collections.abc import Sequence


def choose(kind: str, value: str, choices: Sequence[str]) -> str:
  """Returns `value` if it is one of `choices`.

  Raises:
    ValueError: it is not; the message lists the choices and suggests the nearest.
  """
  if value in choices:
    return value
  near = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  raise ValueError(f'unknown {kind} {value!r}; choose one of {", ".join(choices)}.{hint}')


def split(spec: str, variants: Sequence[str], protocols: Sequence[str]) -> tuple[str, str]:
  """'wn,scaled' → ('wn', 'scaled'); without a protocol the first of `protocols`.

  Raises:
    ValueError: unknown variant or protocol, or more than two parts.
  """
  variant, *rest = spec.split(',')
  if len(rest) > 1:
    raise ValueError(f'{spec!r} has too many parts; write VARIANT or VARIANT,PROTOCOL.')
  choose('variant', variant, variants)
  return variant, choose('protocol', rest[0], protocols) if rest else protocols[0]
