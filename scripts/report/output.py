"""Writes sections as Markdown, CSV, PNG, SVG and one HTML page."""

import base64
import contextlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
import markupsafe
import matplotlib
from matplotlib.figure import Figure

from experiments import results
from experiments.results import Run
from experiments.runtime.errors import UserError, writing
from scripts.report.section import UNFINISHED, Picture, Section, Table

# Of a finished run, and of one without a summary.
_DESCRIPTIONS = ('summary.json', 'config.json', 'data.json')


def write(sections: Sequence[Section], out: Path, page: Path = Path()) -> str:
  """Writes all files of a report.

  Args:
    sections: of the report.
    out: directory; several sections have a subdirectory each.
    page: directory of the Markdown file for the returned text, which links are relative to.

  Returns:
    The first picture, the data, the first table and that of unfinished runs of each section as
    Markdown.
  """
  blocks = []
  for section in sections:
    folder = out if len(sections) == 1 else out / section.name
    folder.mkdir(parents=True, exist_ok=True)
    _record(section, folder)
    for kind in ('md', 'csv'):  # of an earlier report, when runs were unfinished
      (folder / f'{UNFINISHED}.{kind}').unlink(missing_ok=True)
    for table in section.tables:
      (folder / f'{table.name}.md').write_text(_markdown(table) + '\n')
      table.frame.to_csv(folder / f'{table.name}.csv', index=False)
    for name, frame in section.data.items():
      frame.to_csv(folder / f'{name}.csv', index=False)
    for picture in section.pictures:
      for kind in _kinds(picture):
        _write_bytes(folder / f'{picture.name}.{kind}', _render(picture.figure, kind))
    picture = section.pictures[0]
    tables = [section.tables[0], *(table for table in section.tables if table.name == UNFINISHED)]
    link = os.path.relpath(folder / f'{picture.name}.png', page)
    heading = f'**{section.title}**'
    shown = f'![{section.title}]({link})'
    blocks.append(
      '\n\n'.join([heading, shown, picture.caption, section.source, *map(_markdown, tables)])
    )
  (out / 'index.html').write_text(html(sections))
  return '\n\n'.join(blocks)


def html(sections: Sequence[Section]) -> str:
  """The report as a self-contained HTML page; clicking on a heading sorts its table."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters['inline'] = _inline
  environment.filters['data_uri'] = _data_uri
  environment.filters['commit'] = _short_commit
  return environment.get_template('page.html.jinja').render(sections=sections)


def check_markers(path: Path, name: str) -> None:
  """Checks that a Markdown file has the block `name`.

  Raises:
    UserError: the file or the block is missing.
  """
  _split(path, name)


def replace_block(path: Path, name: str, block: str) -> None:
  """Replaces the text between the lines `<!-- name -->` and `<!-- /name -->` of a Markdown file.

  Raises:
    UserError: the file or the block is missing.
  """
  before, after = _split(path, name)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(f'{before}<!-- {name} -->\n\n{block}\n\n<!-- /{name} -->{after}')
  os.replace(temporary, path)


def _split(path: Path, name: str) -> tuple[str, str]:
  """The text before and after the block."""
  begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
  if not path.is_file():
    raise UserError(f'there is no file {path}; --readme needs the lines {begin} and {end}.')
  try:
    before, found, rest = path.read_text().partition(begin)
  except UnicodeDecodeError as error:
    raise UserError(f'{path} is not UTF-8 text.') from error
  _, found_end, after = rest.partition(end)
  if not (found and found_end):
    raise UserError(f'{path} has no lines {begin} and {end}.')
  return before, after


def _record(section: Section, folder: Path) -> None:
  """Copies metrics and summary of each run to VARIANT/[learning_rate=R/]seedK.

  For a run without a summary, copies its config, and logs the divergence of one that diverged, so
  that a report on the copies is the same. What an earlier report copied of a run is replaced.

  Raises:
    UserError: there is another run, not a copy, in such a place.
  """
  tried: dict[str, set[float]] = {}
  for run in section.runs:
    tried.setdefault(run.variant, set()).add(run.learning_rate)
  targets = [_target(run, folder, len(tried[run.variant]) > 1) for run in section.runs]
  for run, target in zip(section.runs, targets, strict=True):
    if (target / 'checkpoints').exists() and target.resolve() != run.path.resolve():
      raise UserError(f'{target} is a run, and no copy of one; choose another --out.')
  for run, target in zip(section.runs, targets, strict=True):
    if target.resolve() != run.path.resolve():
      _copy(run, target)


def _target(run: Run, folder: Path, with_rate: bool) -> Path:
  """Where a run is copied to: to the same place as in an earlier report."""
  variant, seed = folder / run.variant, f'seed{run.config["seed"]}'
  places = [variant / seed, variant / f'learning_rate={run.learning_rate:g}' / seed]
  for place in places:
    with contextlib.suppress(UserError, OSError):  # it is not there, or not a run
      if results.read(place).learning_rate == run.learning_rate:
        return place
  return places[with_rate]


def _copy(run: Run, target: Path) -> None:
  target.mkdir(parents=True, exist_ok=True)
  afterwards = ('likelihood-*.json', 'score-*.json')
  for pattern in (*_DESCRIPTIONS, *afterwards):  # of an earlier state of the run
    for path in target.glob(pattern):
      path.unlink()
  names = _DESCRIPTIONS[:1] if run.is_finished else _DESCRIPTIONS[1:]
  found = [path for pattern in afterwards if run.is_finished for path in run.path.glob(pattern)]
  for path in (*(run.path / name for name in names), *found):
    if path.exists():
      _write_bytes(target / path.name, path.read_bytes())
  if (run.path / 'metrics.jsonl').exists():
    # Those that were read: the run may have gone on.
    rows = (run.path / 'metrics.jsonl').read_bytes().splitlines(keepends=True)[: len(run.metrics)]
    _write_bytes(target / 'metrics.jsonl', b''.join(rows))
  log = target.parent / 'logs' / f'{target.name}.log'
  log.unlink(missing_ok=True)
  if run.divergence:
    log.parent.mkdir(exist_ok=True)
    log.write_text(f'error: {run.divergence}\n')


def _markdown(table: Table) -> str:
  text = table.frame.to_markdown(index=False, disable_numparse=True, tablefmt='github')
  return f'{text}\n\n{table.caption}'


def _kinds(picture: Picture) -> tuple[str, ...]:
  """File formats of a picture."""
  figure = picture.figure
  return ('png', 'svg') if isinstance(figure, Figure) else (figure.suffix[1:],)


def _write_bytes(path: Path, content: bytes) -> None:
  with writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _render(figure: Figure | Path, kind: str) -> bytes:
  if isinstance(figure, Path):
    return figure.read_bytes()
  buffer = io.BytesIO()
  # Without a date and random names, so that the same runs give the same file.
  metadata = {'Date': None} if kind == 'svg' else {}
  with matplotlib.rc_context({'svg.hashsalt': 'report'}):
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
  return buffer.getvalue()


def _data_uri(picture: Picture) -> str:
  kind = _kinds(picture)[-1]
  mime = 'svg+xml' if kind == 'svg' else kind
  return f'data:image/{mime};base64,' + base64.b64encode(_render(picture.figure, kind)).decode()


def _short_commit(name: str) -> str:
  """The first 12 digits of a hash, keeping a '-dirty' at its end."""
  return re.sub(r'^(\w{12})\w*', r'\1', name)


def _inline(text: str) -> markupsafe.Markup:
  """Converts the Markdown of cells and captions (`code` and **bold**) to HTML."""
  escaped = str(markupsafe.escape(text))
  escaped = re.sub(r'`([^`]+)`', r'<code>\1</code>', escaped)
  return markupsafe.Markup(re.sub(r'\*\*([^*]+)\*\*', r'<b>\1</b>', escaped))
