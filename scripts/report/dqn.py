"""Figures 5 and 6 of the paper, from runs of deep Q-learning."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report import drawing, evaluations, paper, protocol, seeds, selection, tables
from scripts.report.drawing import Panel
from scripts.report.evaluations import Comparison, Measure
from scripts.report.section import Content, Picture, Table
from scripts.report.seeds import over_seeds
from scripts.report.selection import Usable

SCORE = Measure('eval/score', 'score', lower_is_better=False)
# Of the config.
KEYS = frozenset({'variant.game', 'steps_per_epoch', 'evaluation.steps', 'evaluation.epsilon'})
# Scores of random play (Mnih et al., 2015, extended data table 2).
RANDOM = {'breakout': 1.7, 'enduro': 0.0, 'seaquest': 68.4, 'space_invaders': 148.0}
_FRAMES = 4e-6  # millions of frames per agent step
_PICTURES = {'episode.gif': 'an episode at the end of training'}


def measures(config: Mapping[str, Any]) -> tuple[Measure, ...]:
  """The score."""
  del config
  return (SCORE,)


def content(usable: Usable) -> Content:
  """Scores against frames, and the highest score of each run."""
  config = usable.finished[0].config
  comparison = evaluations.compare(usable, SCORE, value_of=_highest)
  episodes = _training_episodes(comparison.runs)
  about = (
    f'Figure 5 (Space Invaders in the paper): score at ε = {config["evaluation"]["epsilon"]:g}, '
    f'the mean over the episodes in {config["evaluation"]["steps"]:,} agent steps, and beside it '
    'the mean return in training since the last evaluation; '
    f'{seeds.about(comparison.chosen, "band")}.'
  )
  figure = _figure5(comparison, episodes, config['steps_per_epoch'])
  again = evaluations.afterwards(comparison.runs, 'score', _score_again)
  figure6 = _figure6(comparison, again, episodes)
  return Content(
    heading='Figures 5 and 6: Atari games',
    comparison=comparison,
    value='Highest score',
    pictures=[Picture('figure5', figure, about)],
    tables=[Table('figure6', figure6, _about_figure6(comparison, config, again))],
    data={'score': comparison.chosen},
    run_pictures=_PICTURES,
  )


def _about_figure6(
  comparison: Comparison, config: Mapping[str, Any], again: tuple[int, Any] | None
) -> str:
  text = (
    f'Figure 6: the highest of {config["epochs"]} scores, {seeds.about(comparison.chosen)}; last: '
    'the final score; training: the episodes of the last tenth of training, during which the '
    'network changes. The highest of several noisy scores is partly luck'
  )
  return text + ('; re-evaluated: the same network in other episodes.' if again else '.')


def _highest(rows: pd.DataFrame) -> pd.DataFrame:
  """The row with the highest score of each run."""
  return rows.loc[rows.groupby(['variant', 'learning_rate', 'seed'], sort=False)['value'].idxmax()]


def _score_again(result: dict[str, Any], run: Run) -> float:
  """The score that `experiments.dqn.score` measured."""
  if result['highest_score'] != run.metrics[SCORE.metric].max():
    raise evaluations.OutOfDate('is not of the highest score; run experiments.dqn.score.')
  return result['score']


def _training_episodes(runs: Sequence[Run]) -> pd.DataFrame:
  """A row for each logged mean of training returns, with their count."""
  columns = {'step': 'step', 'train/episode_return': 'mean', 'train/episodes': 'count'}
  frames = []
  for run in runs:
    rows = run.metrics.reindex(columns=list(columns)).rename(columns=columns).dropna()
    steps_per_epoch = run.config['steps_per_epoch']
    frames.append(
      rows.assign(
        variant=run.variant,
        label=selection.label(run),
        parameterization=run.parameterization,
        game=run.config['variant']['game'],
        seed=run.config['seed'],
        epoch=np.ceil(rows['step'] / steps_per_epoch),
        is_late=rows['step'] > 0.9 * run.config['epochs'] * steps_per_epoch,
      )
    )
  return pd.concat(frames, ignore_index=True)


def _mean_returns(episodes: pd.DataFrame, by: list[str]) -> pd.DataFrame:
  """Mean return of the training episodes in each group, in the column `value`."""
  totals = episodes.assign(total=episodes['mean'] * episodes['count'])
  sums = totals.groupby(by, sort=False)[['total', 'count']].sum()
  return (sums['total'] / sums['count']).rename('value').reset_index()


def _figure6(
  comparison: Comparison, again: tuple[int, dict[str, list[float]]] | None, episodes: pd.DataFrame
) -> pd.DataFrame:
  """A row for each game and parameterization.

  `again` holds the number of episodes of the re-evaluation, and variant → scores.
  """
  late = _mean_returns(episodes[episodes['is_late']], ['variant', 'seed'])
  highest, last = _highest(comparison.chosen), evaluations.last_epoch(comparison.chosen)
  in_paper = paper.last(6)
  cells = []
  for (game, variant), group in highest.groupby(['game', 'variant'], sort=False):
    row = {'game': game, **tables.first_cells(comparison, variant)}
    row['parameterization'] = f'`{group["parameterization"].iloc[0]}`'
    row['highest score'] = over_seeds(group['value'])
    row['last score'] = over_seeds(_values(last, variant))
    row['training, last tenth'] = over_seeds(_values(late, variant))
    row['random play'] = f'{RANDOM[game]:g}' if game in RANDOM else '–'
    paper_score, mnih = in_paper.get(variant), in_paper.get(f'{game}-mnih')
    row['paper, 200 million frames'] = f'{paper_score:,.0f}' if paper_score else '–'
    is_plain = variant.endswith('-plain')
    row['Mnih et al. (2015)'] = f'{mnih:,.0f}' if mnih and is_plain else '–'
    cells.append(row)
  table = pd.DataFrame(cells)
  if again:
    count, scores = again
    measured = tables.measured_afterwards(comparison, scores)
    table.insert(table.columns.get_loc('last score'), f're-evaluated, {count} episodes', measured)
  return table


def _values(rows: pd.DataFrame, variant: str) -> pd.Series:
  return rows.loc[rows['variant'] == variant, 'value']


def _figure5(comparison: Comparison, episodes: pd.DataFrame, steps_per_epoch: int) -> Figure:
  """A row per game: scores, and mean returns in training between them, against frames."""
  by = ['variant', 'label', 'parameterization', 'game', 'seed', 'epoch']
  panels = {
    'evaluation': comparison.chosen,
    'training, mean return since the last one': _mean_returns(episodes, by),
  }
  rows = []
  for game in comparison.chosen['game'].unique():
    row = []
    for title, table in panels.items():
      shown = table[table['game'] == game]
      shown = shown.assign(frames=_FRAMES * steps_per_epoch * shown['epoch'])
      points = drawing.paper_points(5, shown) if title == 'evaluation' else None
      level = ('random play', RANDOM[game]) if game in RANDOM else None
      label = 'frames (millions); one is an epoch of the paper'
      row.append(Panel(shown, 'frames', f'{game}: {title}', label, 'score', points, level))
    rows.append(row)
  return drawing.draw(rows, protocol.paper_label(comparison.runs))
