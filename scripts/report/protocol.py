"""Compares the configs of runs with the paper's protocol in configs/."""

import json
from collections.abc import Sequence
from typing import Any

from experiments.results import Run
from experiments.runtime import settings
from scripts.report.recorded import Recorded

_RATE = 'optimizer.learning_rate'
# Shown elsewhere in a report, or without effect on the result.
_NOT_COMPARED = ('protocol', 'seed', 'variant', 'run')


def departures(runs: Sequence[Run | Recorded], but: Sequence[str] = ()) -> str:
  """'model.width=32 (paper: 96), epochs=12 (paper: 200)'; empty for the paper's protocol.

  Ignores the keys `but`, and the learning rate of variants with several, as the paper tried
  several too.
  """
  found, expected = _departures(runs)
  return ', '.join(
    f'{key}={_either(found[key])} (paper: {_either(expected[key])})'
    for key in found
    if key not in but
  )


def is_prefix(runs: Sequence[Run]) -> bool:
  """Whether the runs are the beginnings of the paper's, perhaps of several lengths."""
  found, expected = _departures(runs)
  has_schedule = runs[0].config['experiment'] in settings.SCHEDULES
  if has_schedule or found.keys() != {'epochs'}:
    return False
  return all(int(n) < int(m) for n, m in zip(found['epochs'], expected['epochs'], strict=True))


def _departures(
  runs: Sequence[Run | Recorded],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
  """Key → values in the runs, and key → values in the paper, where they differ."""
  rates: dict[str, set[float]] = {}
  for run in runs:
    rates.setdefault(run.variant, set()).add(run.learning_rate)
  found: dict[str, list[str]] = {}
  expected: dict[str, list[str]] = {}
  for run in runs:
    paper = settings.paper_config(run.config)
    for key, value in settings.effective(run.config, paper).items():
      is_tried = key == _RATE and len(rates[run.variant]) > 1
      is_free = is_tried or settings.is_among(key, _NOT_COMPARED)
      if key in paper and value != paper[key] and not is_free:
        found.setdefault(key, []).append(_text(value))
        expected.setdefault(key, []).append(_text(paper[key]))
  return found, expected


def _text(value: Any) -> str:
  return json.dumps(value).strip('"')


def _either(texts: Sequence[str]) -> str:
  return ' or '.join(dict.fromkeys(texts))


def about(runs: Sequence[Run]) -> str:
  """A sentence for captions on how the runs differ from the paper's protocol."""
  changes = departures(runs)
  if is_prefix(runs):
    lengths = _either([str(n) for n in sorted({run.config['epochs'] for run in runs})])
    return f"The paper's protocol, its first {lengths} epochs."
  if runs[0].config['experiment'] in settings.SCHEDULES and 'epochs=' in changes:
    changes += ', and its schedules scaled to them'
  return f'Unlike the paper: {changes}.' if changes else "The paper's protocol."


def paper_label(runs: Sequence[Run]) -> str:
  """Legend entry for the paper's values in a figure with these runs."""
  found, _ = _departures(runs)
  same_size = not found.keys() - {'model.dtype'} or is_prefix(runs)
  return 'paper' if same_size else 'paper (full size)'
