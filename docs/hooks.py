"""MkDocs hook: what the pages show or name outside docs/.

Pictures from results/ are copied into the site. Links to source files, which the site does not
have, become the path of the file.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

_LINK = re.compile(r'(!?)\[([^]]*)\]\(((?:\.\./)+[^)#\s]+)(#[^)]*)?\)')


def on_page_markdown(markdown, page, config, files):
  """Rewrites the links of a page that lead out of docs/."""
  docs = Path(config.docs_dir)
  here = (docs / page.file.src_uri).parent

  def rewrite(match):
    is_picture, text, link = match[1], match[2], match[3]
    path = (here / link).resolve()
    if docs in path.parents or path == docs:
      return match[0]
    name = path.relative_to(docs.parent).as_posix()
    if not path.exists():
      raise FileNotFoundError(f'{page.file.src_uri} links to {link}, which does not exist')
    if not is_picture:
      # Also a part of the path, as in [train.py](../experiments/cifar/train.py).
      return f'`{name}`' if name.endswith(text.strip('`')) else f'{text} (`{name}`)'
    if files.get_file_from_path(name) is None:
      files.append(File.generated(config, name, abs_src_path=str(path)))
    return f'![{text}]({os.path.relpath(docs / name, here)})'

  return _LINK.sub(rewrite, markdown)
