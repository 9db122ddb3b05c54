"""Parses SPEC of `--config configs/NAME.py:SPEC`."""

import difflib
from collections.abc import Sequence


def choose(kind: str, value: str, choices: Sequence[str]) -> str:
  """Returns `value` if it is one of `choices`.

  Raises:
    ValueError: it is not; the message lists the choices and suggests the closest.
  """
  if value in choices:
    return value
  near = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  raise ValueError(f'unknown {kind} {value!r}; choose one of {", ".join(choices)}.{hint}')


def split(spec: str, variants: Sequence[str], protocols: Sequence[str]) -> tuple[str, str]:
  """'wn,scaled' → ('wn', 'scaled'); 'wn' → ('wn', protocols[0]).

  Raises:
    ValueError: unknown variant or protocol, or too many parts.
  """
  variant, *rest = spec.split(',')
  choose('variant', variant, variants)
  if len(rest) > 1:
    raise ValueError(f'{spec!r} has too many parts; write VARIANT or VARIANT,PROTOCOL.')
  return variant, choose('protocol', rest[0], protocols) if rest else protocols[0]


def split_option(
  spec: str, variants: Sequence[str], protocols: Sequence[str], options: Sequence[str]
) -> tuple[str, str, str]:
  """'wn,noattention,scaled' → ('wn', 'noattention', 'scaled'); 'wn' → ('wn', '', protocols[0]).

  Raises:
    ValueError: unknown variant, option or protocol, or too many parts.
  """
  variant, *rest = spec.split(',')
  choose('variant', variant, variants)
  if len(rest) > 2:
    raise ValueError(f'{spec!r} has too many parts; write VARIANT[,OPTION][,PROTOCOL].')
  if len(rest) == 2:
    return variant, choose('option', rest[0], options), choose('protocol', rest[1], protocols)
  part = choose('option or protocol', rest[0], (*options, *protocols)) if rest else protocols[0]
  return (variant, part, protocols[0]) if part in options else (variant, '', part)
