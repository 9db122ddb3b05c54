"""Configs as text: the name of the variant, flat keys, and what a run prints at its start."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

from configs import cifar, dqn, draw, vae, variants

Config = Mapping[str, Any] | config_dict.ConfigDict
CONFIGS = {'cifar': cifar, 'dqn': dqn, 'draw': draw, 'vae': vae}
# Experiments with a schedule over all epochs: a shorter run isn't the start of a longer one.
SCHEDULES = {
  'cifar': 'its learning rate falls to 0, and β1 changes, at a share of the epochs it began with',
}
CHOSEN = ('experiment', 'protocol', 'variant')  # in SPEC, not by an override
# Keys that decide what a run writes, not what it computes: a run may be resumed with other values.
LOGGING = ('run.log_every', 'run.diagnostics', 'run.checkpoint_every', 'run.keep_checkpoints')
# Keys that configs of earlier versions lack, and the values that those runs had in effect.
ADDED = {'run.steps_per_call': 1, 'model.initial_g': 0.0}
# Experiment → key, values of it, and keys that change nothing with those values.
UNUSED = {
  'cifar': (
    ('variant.parameterization', ('plain', 'wn', 'plain_released'), ('model.bn_momentum',)),
    (
      'variant.parameterization',
      ('plain', 'wn', 'plain_released', 'mean_bn', 'wn_mean_bn'),
      ('model.bn_eps',),
    ),
    ('variant.parameterization', ('plain_released',), ('model.init_std',)),
    ('variant.parameterization', ('bn',), ('init.scale',)),
    ('data.whiten', (False,), ('data.zca_eps',)),
  ),
  'draw': (
    ('variant.parameterization', ('plain',), ('model.initial_g',)),
    ('variant.option', ('noattention',), ('model.read_window', 'model.write_window')),
  ),
  'dqn': (
    ('optimizer.name', ('adamax',), ('optimizer.rmsprop_decay', 'optimizer.rmsprop_eps')),
    ('optimizer.name', ('rmsprop',), ('optimizer.b1', 'optimizer.b2', 'optimizer.eps')),
  ),
  'vae': (
    ('variant.parameterization', ('plain',), ('layers.log_scale',)),
    (
      'variant.posterior',
      ('diag',),
      ('init.flow_scale', 'model.flow_steps', 'model.flow_width', 'model.flow_depth'),
    ),
  ),
}


def variant(config: Config) -> str:
  """Name of the variant of a config (also one read from JSON), e.g. 'mnist-iaf-wn'."""
  return variants.name(config['variant'])


def flatten(config: Config, prefix: str = '') -> dict[str, Any]:
  """Flattens nested sections in order: {'model.width': 96, ...}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping | config_dict.ConfigDict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def effective(config: Config, known: Iterable[str]) -> dict[str, Any]:
  """The flat config without `unused` keys, and with those `known` keys of `ADDED` that it lacks."""
  flat = {key: value for key, value in ADDED.items() if key in known} | flatten(config)
  without = unused(config)
  return {key: value for key, value in flat.items() if key not in without}


def unused(config: Config) -> dict[str, str]:
  """Key that changes nothing in this run → the reason, such as 'variant.option=noattention'."""
  flat = flatten(config)
  return {
    key: f'{condition}={flat[condition]}'
    for condition, values, keys in UNUSED.get(config['experiment'], ())
    for key in keys
    if flat.get(condition) in values
  }


def paper_config(config: Config) -> dict[str, Any]:
  """The flat config of the same variant with the protocol `paper`.

  Raises:
    ValueError: the variant is unknown.
  """
  spec = variant(config)
  if config['experiment'] == 'draw':
    spec = spec.replace('-', ',')
  return flatten(json.loads(CONFIGS[config['experiment']].get_config(spec).to_json()))


def unread_keys(config: Config) -> list[str]:
  """Keys of a user's own config file that configs/ does not have, so that no code reads them."""
  try:
    experiment = config['experiment']
    parts = CONFIGS[experiment].get_config()['variant']
    kept = {part: value for part, value in config['variant'].items() if part in parts}
    known = paper_config({'experiment': experiment, 'variant': kept})
  except (AttributeError, KeyError, TypeError, ValueError):
    return []  # of an experiment of their own, or without a variant that exists, which is refused
  return sorted(flatten(config).keys() - known.keys())


def check(config: Config) -> None:
  """Checks that a config, perhaps of a user's own file, has a name and no key that nothing reads.

  Raises:
    ValueError: it lacks a part of the name, or has such a key.
  """
  if missing := {'variant', 'protocol', 'seed'} - set(config):
    raise ValueError(f'the config lacks {", ".join(sorted(missing))}.')
  if not is_name(protocol := config['protocol']):
    raise ValueError(f'protocol={protocol!r} must be a name of letters, digits, ., +, - and _.')
  if unread := unread_keys(config):
    raise ValueError(
      f'nothing reads {", ".join(unread)}; configs/{config["experiment"]}.py has the keys that '
      'exist, and new ones that your code reads belong there.'
    )


def is_name(value: Any) -> bool:
  """Whether a value can be a part of a path, as protocols and the parts of variants are."""
  return isinstance(value, str) and re.fullmatch(r'\w[\w.+-]*', value) is not None


def is_among(key: str, names: Iterable[str]) -> bool:
  """Whether a key such as 'model.width', or a section that contains it, is in `names`."""
  return any(key == name or key.startswith(f'{name}.') for name in names)


def is_of_older_format(config: Config) -> bool:
  """Whether a config is from before its keys were grouped in sections."""
  return isinstance(config.get('variant'), str)


def describe(config: config_dict.FrozenConfigDict) -> str:
  """The config, one line per section, without keys that don't affect the result."""
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
  """E.g. 'data: cifar10, digest cf03efd1d05c', plus any splits that are not as published."""
  differing = [split for split, same in (data.get('published') or {}).items() if not same]
  remark = f'; not the published files: {", ".join(differing)}' if differing else ''
  return f'data: {data["name"]}, digest {data["digest"][:12]}{remark}'
