"""Shows a sweep: as a live table on a terminal, elsewhere as a line per change."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.runtime import metrics
from scripts.sweep import trials as trials_lib
from scripts.sweep.trials import Trial

_STYLES = {'running': 'cyan', 'failed': 'red', 'waiting': 'dim', 'finished': 'green'}


class Display:
  """Shows the state, progress and latest evaluation of each trial."""

  def __init__(self, trials: Sequence[Trial], console: Console | None = None):
    self._trials = trials
    self._console = console or Console()
    self._live = Live(console=self._console, auto_refresh=False)
    self._last: dict[str, str] = {}

  def __enter__(self) -> 'Display':
    """Starts the live table."""
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_) -> None:
    """Stops the live table, which stays on the screen."""
    if self._console.is_terminal:
      self._live.stop()

  def show(self, states: Mapping[str, str]) -> None:
    """Shows states: trial name → 'waiting', 'running', 'finished' or 'failed'."""
    if self._console.is_terminal:
      self._live.update(self._table(states), refresh=True)
    else:
      for trial in self._trials:
        if self._last.get(trial.name) != states[trial.name] != 'waiting':
          _, _, *cells = _row(trial, states[trial.name])
          self._console.print(trial.name, states[trial.name], *filter(None, cells), soft_wrap=True)
      self._last = dict(states)

  def _table(self, states: Mapping[str, str]) -> Table:
    counts = Counter(states.values())
    table = _new_table(', '.join(f'{counts[state]} {state}' for state in _STYLES if counts[state]))
    # Running trials first, as a long sweep doesn't fit on the screen.
    order = sorted(self._trials, key=lambda trial: list(_STYLES).index(states[trial.name]))
    room = max(self._console.height - 6, 1)
    for trial in order[:room]:
      table.add_row(*_row(trial, states[trial.name]), style=_STYLES[states[trial.name]])
    if len(order) > room:
      table.add_row(f'and {len(order) - room} more', style='dim')
    return table


def show_plan(trials: Sequence[Trial], left: Sequence[Trial]) -> None:
  """Shows the trials of a sweep and which would be run."""
  table = _new_table(f'{len(left)} of {len(trials)} trials would be run')
  for trial in trials:
    begun = trial.workdir.exists()
    state = 'finished' if trial not in left else 'would resume' if begun else 'would be run'
    table.add_row(*_row(trial, state))
  Console().print(table, soft_wrap=True)


def _new_table(title: str) -> Table:
  table = Table(title=title, title_justify='left')
  table.add_column('trial', overflow='fold')
  for column in ('state', 'progress', 'latest evaluation'):
    table.add_column(column, no_wrap=True)
  return table


def _row(trial: Trial, state: str) -> tuple[str, str, str, str]:
  progress = trials_lib.progress(trial)
  done = f'{100 * progress.fraction:.0f} %' if progress.fraction else ''
  return trial.name, state, done, metrics.describe(progress.metrics)
