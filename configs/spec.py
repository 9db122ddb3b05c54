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


def split(
  spec: str, variants: Sequence[str], protocols: Sequence[str], options: Sequence[str] = ()
) -> tuple[str, str]:
  """'wn,scaled' → ('wn', 'scaled'); without a protocol the first of `protocols`.

  One of `options` may stand between the two, and becomes a part of the variant's name:
  'wn,noattention,scaled' → ('wn-noattention', 'scaled').

  Raises:
    ValueError: unknown variant, option or protocol, or more parts than these.
  """
  variant, *rest = spec.split(',')
  choose('variant', variant, variants)
  if len(rest) > (2 if options else 1):
    form = 'VARIANT[,OPTION][,PROTOCOL]' if options else 'VARIANT or VARIANT,PROTOCOL'
    raise ValueError(f'{spec!r} has too many parts; write {form}.')
  option, protocol = '', protocols[0]
  if len(rest) == 2:
    option, protocol = choose('option', rest[0], options), choose('protocol', rest[1], protocols)
  elif rest:
    kind = 'option or protocol' if options else 'protocol'
    part = choose(kind, rest[0], (*options, *protocols))
    option, protocol = (part, protocol) if part in options else ('', part)
  return f'{variant}-{option}' if option else variant, protocol
