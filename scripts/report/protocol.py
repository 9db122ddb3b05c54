"""How runs differ from the paper's protocol: their configs beside those of configs/."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from configs import cifar, dqn, draw, vae
from experiments.results import Run
from experiments.training import settings

_CONFIGS = {'cifar': cifar, 'dqn': dqn, 'draw': draw, 'vae': vae}
# Said elsewhere in a report, or without influence on the result.
_NOT_COMPARED = ('protocol', 'seed', 'optimizer.learning_rate', 'variant', 'run')


def paper_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config of the same variant with the protocol `paper`, its keys in one list.

  Raises:
    ValueError: there is no such variant.
  """
  spec = settings.variant(config)
  if config['experiment'] == 'draw':
    spec = spec.replace('-', ',')
  paper = _CONFIGS[config['experiment']].get_config(spec)
  return settings.flatten(json.loads(paper.to_json()))


def departures(runs: Sequence[Run]) -> str:
  """'model.width=32 (paper: 96), epochs=12 (paper: 200)'; empty for runs with its protocol."""
  found: dict[str, list[str]] = {}  # key → values of the runs
  expected: dict[str, str] = {}
  for run in runs:
    paper, config = paper_config(run.config), settings.flatten(run.config)
    for key in paper.keys() & config.keys():
      is_compared = not any(key == name or key.startswith(f'{name}.') for name in _NOT_COMPARED)
      if is_compared and config[key] != paper[key]:
        expected[key] = json.dumps(paper[key]).strip('"')
        found.setdefault(key, []).append(json.dumps(config[key]).strip('"'))
  order = [key for key in settings.flatten(runs[0].config) if key in found]
  return ', '.join(
    f'{key}={" or ".join(dict.fromkeys(found[key]))} (paper: {expected[key]})' for key in order
  )


def about(runs: Sequence[Run]) -> str:
  """A sentence for a caption: how the runs differ from the paper's protocol."""
  changes = departures(runs)
  return f'Unlike the paper: {changes}.' if changes else "The paper's protocol."


def paper_label(runs: Sequence[Run]) -> str:
  """How a figure with these runs calls what the paper has."""
  return 'paper (full size)' if departures(runs) else 'paper'
