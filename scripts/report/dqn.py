"""Table 2 and Figure 4 of the paper from runs of deep Q-learning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report import curves
from scripts.report.parts import Picture, Section, Table

METRIC = 'eval/score'
# Of a config.
KEYS = frozenset(
  {'game', 'param', 'epochs', 'steps_per_epoch', 'eval_epsilon', 'eval_episodes',
   'final_eval_episodes', 'learning_rate'}
)  # fmt: skip
# Highest score, Table 2 of the paper: 200 million frames.
PAPER = {
  'breakout': {'plain': 410, 'wn': 403},
  'enduro': {'plain': 1250, 'wn': 1448},
  'seaquest': {'plain': 7188, 'wn': 7375},
  'space_invaders': {'plain': 1779, 'wn': 2179},
}
# Score of random play, Mnih et al. (2015), extended data table 2.
RANDOM = {'breakout': 1.7, 'enduro': 0.0, 'seaquest': 68.4, 'space_invaders': 148.0}
_PICTURES = {'episode.gif': 'an episode at the end of training'}  # of a run


def section(
  runs: Sequence[Run], name: str, title: str, steps: Path | None = None, note: str = ''
) -> tuple[Section | None, list[str]]:
  """The section of runs that differ only in game, parameterisation, seed and learning rate.

  Args:
    runs: finished runs.
    name: of the section.
    title: its heading.
    steps: not used: the score is shown against frames.
    note: sentence for the caption.

  Returns:
    The section, or None if no run can be used; and a line for each run that cannot.
  """
  del steps
  order = sorted({run.config['variant'] for run in runs})
  runs, problems = curves.whole(runs, METRIC, order)
  if not runs:
    return None, problems
  config = runs[0].config
  rows = _evaluations(runs)
  best = _best_rates(rows)
  chosen = rows[rows['learning_rate'] == rows['variant'].map(best)]
  tried = rows['learning_rate'].nunique()
  best_runs = [run for run in runs if run.config['learning_rate'] == best[run.config['variant']]]
  again = curves.afterwards(best_runs, 'score', _score_again)
  caption = ' '.join(filter(None, [_caption(config, tried, again is not None), note]))
  episodes = _training_episodes(best_runs)
  is_late = episodes['step'] > 0.9 * config['epochs'] * config['steps_per_epoch']
  late = _mean_returns(episodes[is_late], ['variant', 'seed'])
  table = _table(chosen, again, late, with_rates=tried > 1)
  tables = [Table('table', table, caption)]
  if tried > 1:
    text = 'Highest score by learning rate; the best of each in bold.'
    tables.append(Table('learning_rates', _rate_table(rows, best), text))
  about = 'Mean over seeds, with a band of one standard error; the dashed line is random play.'
  pictures = [
    Picture('score', _draw(chosen, episodes, config['steps_per_epoch']), about),
    *curves.pictures_of_runs(best_runs, _PICTURES),
  ]
  return Section(name, title, runs, tables, pictures, {'score': curves.by_run(chosen)}), problems


def _evaluations(runs: Sequence[Run]) -> pd.DataFrame:
  """As `curves.evaluations`, with game, param and frames in millions."""
  rows = _with_game(curves.evaluations(runs, METRIC))
  return rows.assign(frames=4e-6 * runs[0].config['steps_per_epoch'] * rows['epoch'])


def _with_game(rows: pd.DataFrame) -> pd.DataFrame:
  """Rows of variants, with their game and param."""
  names = rows['variant'].str.split('-')
  return rows.assign(game=names.str[0], param=names.str[1])


def _highest(rows: pd.DataFrame) -> pd.DataFrame:
  """The highest score of each run."""
  keys = ['game', 'param', 'variant', 'learning_rate', 'seed']
  return rows.groupby(keys, sort=False)['value'].max().reset_index()


def _score_again(result: dict[str, Any], run: Run) -> float:
  """The score of `experiments.dqn.score`."""
  if result['highest_score'] != run.metrics[METRIC].max():
    raise ValueError('it is of a network that has not the highest score')
  return result['score']


def _training_episodes(runs: Sequence[Run]) -> pd.DataFrame:
  """A row wherever the training wrote returns down: their mean as value, and their count."""
  columns = {'step': 'step', 'train/episode_return': 'value', 'train/episodes': 'count'}
  frames = []
  for run in runs:
    rows = run.metrics.reindex(columns=list(columns)).rename(columns=columns).dropna()
    frames.append(rows.assign(variant=run.config['variant'], seed=run.config['seed']))
  return _with_game(pd.concat(frames, ignore_index=True))


def _mean_returns(episodes: pd.DataFrame, by: list[str]) -> pd.DataFrame:
  """Mean return of the training episodes in each group."""
  totals = episodes.assign(total=episodes['value'] * episodes['count'])
  sums = totals.groupby(by, sort=False)[['total', 'count']].sum()
  return (sums['total'] / sums['count']).rename('value').reset_index()


def _best_rates(rows: pd.DataFrame) -> dict[str, float]:
  """Variant → the learning rate whose highest score is the largest, as a mean over seeds."""
  means = _highest(rows).groupby(['variant', 'learning_rate'], sort=False)['value'].mean()
  return {variant: means[variant].idxmax() for variant in means.index.unique('variant')}


def _table(
  rows: pd.DataFrame,
  again: tuple[int, dict[str, str]] | None,
  training: pd.DataFrame,
  *,
  with_rates: bool,
) -> pd.DataFrame:
  """Table 2: a row for each game and parameterisation.

  Args:
    rows: the evaluations.
    again: in how many episodes the best networks were re-evaluated, and variant → score.
    training: mean return of each run's episodes at the end of its training.
    with_rates: whether there are several learning rates.
  """
  cells = []
  highest, last = _highest(rows), curves.last_epoch(rows)
  for (game, param, variant), group in highest.groupby(['game', 'param', 'variant'], sort=False):
    row = {'game': game, 'parameterisation': f'`{param}`', 'seeds': str(len(group))}
    if with_rates:
      row['learning rate'] = f'{group["learning_rate"].iloc[0]:g}'
    final = last[(last['game'] == game) & (last['param'] == param)]
    paper, random = PAPER.get(game, {}).get(param), RANDOM.get(game)
    row['highest score'] = curves.mean_and_error(group['value'])
    if again:
      episodes, scores = again
      row[f're-evaluated, {episodes} episodes'] = scores[variant]
    row['last score'] = curves.mean_and_error(final['value'])
    returns = training.loc[training['variant'] == variant, 'value']
    row['training, last tenth'] = curves.mean_and_error(returns)
    row['random play'] = '–' if random is None else f'{random:g}'
    row['paper, 200 million frames'] = '–' if paper is None else f'{paper:,}'
    cells.append(row)
  return pd.DataFrame(cells)


def _rate_table(rows: pd.DataFrame, best: dict[str, float]) -> pd.DataFrame:
  """Highest score: a row for each variant, a column for each learning rate."""
  highest, cells = _highest(rows), []
  for variant, group in highest.groupby('variant', sort=False):
    row = {'game and parameterisation': f'`{variant}`'}
    for rate in sorted(rows['learning_rate'].unique()):
      values = group.loc[group['learning_rate'] == rate, 'value']
      text = curves.mean_and_error(values) if len(values) else '–'
      row[f'{rate:g}'] = f'**{text}**' if rate == best[variant] else text
    cells.append(row)
  return pd.DataFrame(cells)


def _caption(config: dict[str, Any], tried: int, is_reevaluated: bool) -> str:
  frames = 4e-6 * config['epochs'] * config['steps_per_epoch']
  text = (
    f'Score of {config["eval_episodes"]} episodes with ε = {config["eval_epsilon"]:g}, evaluated '
    f'{config["epochs"]} times in {frames:g} million frames (paper: 200 million); last: the mean '
    f'of {config["final_eval_episodes"]} episodes at the end; training: its own episodes in the '
    'last tenth, while the network changes. The highest of several noisy scores is high by luck too'
  )
  text += '; re-evaluated: the same network in other episodes.' if is_reevaluated else '.'
  if tried > 1:
    return f'{text} The best of {tried} learning rates for each by the highest score.'
  return f'{text} Learning rate {config["learning_rate"]:g}.'


def _draw(evaluations: pd.DataFrame, episodes: pd.DataFrame, steps_per_epoch: int) -> Figure:
  """A row for each game: scores, and returns in training up to each of them, against frames."""
  ends = np.ceil(episodes['step'] / steps_per_epoch) * steps_per_epoch
  episodes = episodes.assign(frames=4e-6 * ends)
  training = _mean_returns(episodes, ['game', 'param', 'seed', 'frames'])
  games = evaluations['game'].unique()
  figure = Figure(figsize=(11, 4 * len(games)), layout='constrained')
  for game, row in zip(games, figure.subplots(len(games), 2, squeeze=False, sharey='row')):
    panels = {'evaluation': evaluations, 'training, mean return since the last one': training}
    for axes, (title, rows) in zip(row, panels.items()):
      shown = rows[rows['game'] == game]
      sns.lineplot(shown, x='frames', y='value', hue='param', errorbar='se', marker='.', ax=axes)
      if game in RANDOM:
        axes.axhline(RANDOM[game], color='0.5', ls='--', lw=1)
      axes.set(xlabel='frames (millions)', ylabel='score', title=f'{game}: {title}', xlim=(0, None))
      axes.grid(alpha=0.3)
      axes.legend()
  return figure
