"""Writes sections as Markdown, CSV, PNG, SVG and one page for a browser."""

import base64
import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import jinja2
import markupsafe
import matplotlib
from matplotlib.figure import Figure

from experiments.training.errors import UserError
from scripts.report.parts import Section, Table

_BEGIN, _END = '<!-- results -->', '<!-- /results -->'


def write(sections: Sequence[Section], out: Path, page: Path = Path()) -> str:
  """Writes everything into `out`.

  Args:
    sections: of the report.
    out: directory; a single section goes into it, several each into one of their own.
    page: directory of the Markdown file that the result is for; pictures are linked from there.

  Returns:
    First table and first picture of each section as Markdown.
  """
  blocks = []
  for section in sections:
    folder = out if len(sections) == 1 else out / section.name
    folder.mkdir(parents=True, exist_ok=True)
    _record(section, folder)
    for table in section.tables:
      (folder / f'{table.name}.md').write_text(_markdown(table) + '\n')
      table.frame.to_csv(folder / f'{table.name}.csv', index=False)
    for name, frame in section.data.items():
      frame.to_csv(folder / f'{name}.csv', index=False)
    for picture in section.pictures:
      for kind in ('png', 'svg'):
        (folder / f'{picture.name}.{kind}').write_bytes(_render(picture.figure, kind))
    table, picture = section.tables[0], section.pictures[0]
    link = os.path.relpath(folder / f'{picture.name}.png', page)
    heading = [f'**{section.title}**'] if len(sections) > 1 else []
    shown = f'{_markdown(table)} {picture.caption}'
    what = f'{section.title}: {picture.name.replace("_", " ")}'
    blocks.append('\n\n'.join([*heading, shown, f'![{what}]({link})']))
  (out / 'index.html').write_text(html(sections))
  return '\n\n'.join(blocks)


def html(sections: Sequence[Section]) -> str:
  """The report as a page that needs no other file; a click on a heading sorts its table."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['inline'] = _inline
  environment.filters['data_uri'] = _data_uri
  environment.filters['commit'] = lambda name: re.sub(
    r'^(\w{12})\w*', r'\1', name
  )  # keeps '-dirty'
  return environment.get_template('page.html.jinja').render(sections=sections)


def check_markers(path: Path) -> None:
  """Checks that a Markdown file has a results block.

  Raises:
    UserError: it has none.
  """
  text = path.read_text()
  if _BEGIN not in text or _END not in text.split(_BEGIN, 1)[1]:
    raise UserError(f'{path} has no lines {_BEGIN} and {_END}.')


def replace_block(path: Path, block: str) -> None:
  """Puts `block` between the markers of a Markdown file.

  Raises:
    UserError: the file has no such markers.
  """
  check_markers(path)
  before, rest = path.read_text().split(_BEGIN, 1)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(f'{before}{_BEGIN}\n\n{block}\n\n{_END}{rest.split(_END, 1)[1]}')
  os.replace(temporary, path)


def _record(section: Section, folder: Path) -> None:
  """Copies the raw metrics and the summary of each run: VARIANT/[learning_rate=R/]seedK."""
  rates = {run.config['learning_rate'] for run in section.runs}
  for run in section.runs:
    rate = [f'learning_rate={run.config["learning_rate"]:g}'] if len(rates) > 1 else []
    target = folder.joinpath(run.config['variant'], *rate, f'seed{run.config["seed"]}')
    target.mkdir(parents=True, exist_ok=True)
    for name in ('metrics.jsonl', 'summary.json'):
      if (run.path / name).resolve() != (target / name).resolve():
        shutil.copyfile(run.path / name, target / name)


def _markdown(table: Table) -> str:
  text = table.frame.to_markdown(index=False, disable_numparse=True, tablefmt='github')
  return f'{text}\n\n{table.caption}'


def _render(figure: Figure, kind: str) -> bytes:
  buffer = io.BytesIO()
  # Without the date, and with names that are no random numbers, the same runs make the same file.
  metadata = {'Date': None} if kind == 'svg' else {}
  with matplotlib.rc_context({'svg.hashsalt': 'report'}):
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
  return buffer.getvalue()


def _data_uri(figure: Figure) -> str:
  return 'data:image/svg+xml;base64,' + base64.b64encode(_render(figure, 'svg')).decode()


def _inline(text: str) -> markupsafe.Markup:
  """The Markdown that cells and captions use, `code` and **bold**, as HTML."""
  escaped = str(markupsafe.escape(text))
  escaped = re.sub(r'`([^`]+)`', r'<code>\1</code>', escaped)
  return markupsafe.Markup(re.sub(r'\*\*([^*]+)\*\*', r'<b>\1</b>', escaped))
