"""Selects, orders and labels the runs of a section."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs import variants
from experiments.results import Run
from experiments.runtime import settings

NOT_FINISHED = 'is not finished (there is no summary.json)'
_ORDER = {
  'game': variants.DQN_GAMES,
  'dataset': variants.VAE_DATASETS,
  'posterior': variants.VAE_POSTERIORS,
  'option': ('', *variants.DRAW_OPTIONS),
  'parameterization': variants.CIFAR_PARAMETERIZATIONS,
}


@dataclasses.dataclass(frozen=True)
class Usable:
  """Runs that a section can show.

  Attributes:
    finished: ordered as in `configs.variants`.
    diverged: stopped by a non-finite number.
    unfinished: the others that have been evaluated; shown in a table of their own.
    problems: a message for each other run.
    step_seconds: variant → seconds of a training step; None to use the runs' own time.
  """

  finished: list[Run]
  diverged: list[Run]
  unfinished: list[Run]
  problems: list[str]
  step_seconds: Mapping[str, float] | None = None


def select(runs: Sequence[Run], metrics: Sequence[str]) -> Usable:
  """Selects runs without duplicates, in the order of `configs.variants`.

  Args:
    runs: in any state.
    metrics: required of finished runs; the first one after every epoch.
  """
  problems: list[str] = []
  found: dict[tuple, Run] = {}
  for run in sorted(runs, key=_furthest_first):
    key = (run.variant, run.learning_rate, run.config['seed'])
    if problem := _problem(run, metrics):
      problems.append(problem)
    elif key not in found:
      found[key] = run
    else:
      problems.append(f'{run.path} has the same variant, rate and seed as {found[key].path}.')
  ordered = sorted(found.values(), key=order)
  finished = [run for run in ordered if run.is_finished]
  diverged = [run for run in ordered if run.divergence]
  unfinished = [run for run in ordered if run.is_unfinished]
  if finished:
    problems += [
      f'{run.path} is not finished; see the table of unfinished runs.' for run in unfinished
    ]
  else:
    ends = [f'{run.path} diverged ({run.divergence}).' for run in diverged]
    problems = ends + [f'{run.path} {NOT_FINISHED}.' for run in unfinished] + problems
  return Usable(finished, diverged, unfinished, problems)


def _furthest_first(run: Run) -> tuple[bool, bool, float]:
  """Sort key: finished runs, then diverged ones, then the others, the furthest first."""
  return not run.is_finished, run.is_unfinished, -max(run.metrics['step'], default=0)


def _problem(run: Run, metrics: Sequence[str]) -> str | None:
  """Why a run can't be used; None if it can."""
  try:
    settings.paper_config(run.config)
  except (ValueError, KeyError):
    return f'{run.path} has an unknown variant {run.variant!r}.'
  if run.is_unfinished and metrics[0] not in run.metrics:
    return f'{run.path} {NOT_FINISHED}.'
  if not run.is_finished:
    return None
  rows, epochs = run.metrics, run.config['epochs']
  evaluated = rows['epoch'][rows[metrics[0]].notna()] if metrics[0] in rows else []
  if not np.array_equal(evaluated, np.arange(1, epochs + 1)):
    return f'{run.path}/metrics.jsonl lacks evaluations: there should be {epochs}.'
  missing = [name for name in metrics if name not in rows]
  return f'{run.path}/metrics.jsonl lacks {", ".join(missing)}.' if missing else None


def order(run: Run) -> list[Any]:
  """Sort key of a run: the parts of its variant, learning rate and seed."""
  key: list[Any] = []
  for part, known in _ORDER.items():
    value = run.config['variant'].get(part, '')
    key.append((known.index(value) if value in known else len(known), value))
  return [*key, run.learning_rate, run.config['seed']]


def label(run: Run) -> str:
  """'iaf-wn': the variant without game and data set, which a panel has in common."""
  parts = run.config['variant']
  return variants.name({k: v for k, v in parts.items() if k not in ('game', 'dataset')})
