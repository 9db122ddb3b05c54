"""The figure against minutes of training."""

from scripts.report import drawing
from scripts.report.evaluations import Comparison
from scripts.report.section import Picture
from scripts.report.selection import Usable


def pictures(
  usable: Usable, comparison: Comparison, name: str, title: str, text: str
) -> list[Picture]:
  """The value against time; nothing if the runs were made on devices that do not compare.

  Args:
    usable: the runs, perhaps with times of steps to use in place of their own.
    comparison: of these runs.
    name: of the picture.
    title: of the figure.
    text: what the caption begins with.
  """
  if usable.step_seconds:
    about = 'time is the number of steps times the median time of a step'
  else:
    devices = [(run.summary or {}).get('device', {}) for run in usable.finished]
    kinds = {device.get('kind', '') for device in devices} - {''}
    if len(kinds) > 1:
      return []
    where = ''.join(f' on {kind}' for kind in kinds)
    about = (
      f'time is wall-clock time{where}, compilation and any other work of the machine included'
    )
  return [Picture(name, drawing.against_time(comparison, title), f'{text}; {about}.')]
