"""A config as text: its variant, its keys in one list, and what a run says at its start."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

from configs import variants

Config = Mapping[str, Any] | config_dict.ConfigDict
# Experiments with a schedule over all epochs: a shorter run isn't the start of a longer one.
SCHEDULES = {
  'cifar': 'its learning rate falls to 0, and β1 changes, at a share of the epochs it began with',
}


def variant(config: Config) -> str:
  """'mnist-iaf-wn': the name of the variant of a config, or of one that was read from JSON."""
  return variants.name(config['variant'])


def flatten(config: Config, prefix: str = '') -> dict[str, Any]:
  """{'model.width': 96, ...} of nested sections, in their order."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping | config_dict.ConfigDict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def is_among(key: str, names: Iterable[str]) -> bool:
  """Whether a key such as 'model.width' is one of `names`, or in a section that is."""
  return any(key == name or key.startswith(f'{name}.') for name in names)


def is_of_older_format(config: Config) -> bool:
  """Whether a config is of the time when its keys were not in sections."""
  return isinstance(config.get('variant'), str)


def describe(config: config_dict.FrozenConfigDict) -> str:
  """The protocol, one line per section, without keys that don't change the result."""
  config = json.loads(config.to_json())
  lines = [f'{config["experiment"]} {variant(config)}, protocol {config["protocol"]}']
  plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
  sections = {key: value for key, value in config.items() if isinstance(value, Mapping)}
  hidden = {'experiment', 'protocol', 'variant', 'run'}
  for name, values in (*sections.items(), ('training', plain)):
    if name not in hidden:
      text = ' '.join(f'{key}={value}' for key, value in values.items() if key not in hidden)
      lines.append(f'  {name:<11} {text}')
  return '\n'.join(lines)


def describe_data(data: Mapping[str, Any]) -> str:
  """'data: cifar10, digest cf03efd1d05c', and the splits that differ from the published files."""
  differing = [split for split, same in (data.get('published') or {}).items() if not same]
  remark = f'; not the published files: {", ".join(differing)}' if differing else ''
  return f'data: {data["name"]}, digest {data["digest"][:12]}{remark}'
