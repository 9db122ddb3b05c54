"""The quantities of §2.1 per layer: norms, scales, gradients and their angle to v."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from experiments.results import Run
from scripts.report.section import Picture

PREFIX = 'diagnostics/'
# Metric → axis label.
QUANTITIES = {
  'v_norm': '‖v‖',
  'g': '|g|',
  'v_grad_norm': '‖∇v‖',
  'v_grad_cosine': '|v·∇v| / (‖v‖ ‖∇v‖)',
  'effective_learning_rate': '‖Δv‖ / ‖v‖',
}
_NORMALIZED = (
  'A cosine of rounding size shows that v·∇v = 0 (Eq. 3). Under plain gradient descent ‖v‖ '
  'therefore only grows (§2.1); Adam follows this only roughly.'
)
_PLAIN = 'v is the weight itself; its gradient may change its length as well as its direction.'
_ON_LOG_SCALE = {'v_grad_norm', 'v_grad_cosine', 'effective_learning_rate'}


def pictures(runs: Sequence[Run]) -> list[Picture]:
  """One picture per variant, of its first run with `config.run.diagnostics`."""
  drawn: dict[str, Picture] = {}
  for run in runs:
    variant = run.variant
    frame = long(run.metrics)
    if variant not in drawn and not frame.empty:
      caption = f'`{variant}`, seed {run.config["seed"]}: means over the units of each layer. '
      caption += _NORMALIZED if run.parameterization.startswith('wn') else _PLAIN
      drawn[variant] = Picture(f'diagnostics_{variant}', draw(frame), caption)
  return list(drawn.values())


def long(metrics: pd.DataFrame) -> pd.DataFrame:
  """The diagnostics of a run in long form: columns epoch, layer, quantity and value."""
  columns = [name for name in metrics if name.startswith(PREFIX)]
  rows = metrics.melt(id_vars='epoch', value_vars=columns, value_name='value').dropna()
  parts = rows['variable'].str.removeprefix(PREFIX).str.rsplit('/', n=1, expand=True)
  parts = parts.reindex(columns=[0, 1])
  rows = rows.assign(layer=parts[0], quantity=parts[1]).drop(columns='variable')
  return rows[rows['quantity'].isin(list(QUANTITIES))]


def draw(frame: pd.DataFrame) -> Figure:
  """Draws a panel per quantity, with a line per layer, against epochs."""
  shown = [name for name in QUANTITIES if name in set(frame['quantity'])]
  layers = list(frame['layer'].unique())
  figure = Figure(figsize=(12, 3.5 * -(-len(shown) // 3)), layout='constrained')
  panels = list(figure.subplots(-(-len(shown) // 3), 3, squeeze=False).flat)
  for axes, name in zip(panels, shown):
    rows = frame[frame['quantity'] == name]
    sns.lineplot(
      rows, x='epoch', y='value', hue='layer', hue_order=layers, palette='viridis', lw=1, ax=axes
    )
    axes.set(ylabel=QUANTITIES[name], yscale='log' if name in _ON_LOG_SCALE else 'linear')
    axes.grid(alpha=0.3)
    axes.get_legend().remove()
  for axes in panels[len(shown) :]:
    axes.remove()
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside right center', fontsize='small')
  return figure
