"""Configurations for tests, with some values changed."""

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from ml_collections import config_dict


def frozen(
  module: ModuleType, spec: str, changes: Mapping[str, Any] = MappingProxyType({})
) -> config_dict.FrozenConfigDict:
  """The config of a spec with `changes`, such as {'model.width': 4}; a key it lacks is an error."""
  config = module.get_config(spec).lock()
  config.update_from_flattened_dict(dict(changes))
  return config_dict.FrozenConfigDict(config)
