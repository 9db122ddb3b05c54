"""The documentation builds, and the programs in it run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / 'docs/index.md', *sorted((ROOT / 'docs/guide').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_code_of_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  text = page.read_text()
  names = {'__name__': page.stem}
  for match in re.finditer(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
    line = text[: match.start(1)].count('\n')
    exec(compile('\n' * line + match[1], page, 'exec'), names)


def test_the_site_builds_without_a_warning(tmp_path):
  pytest.importorskip('mkdocs', reason="pip install -e '.[docs]' brings it")
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', tmp_path / 'site']
  env = {**os.environ, 'NO_MKDOCS_2_WARNING': '1'}
  result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  page = (tmp_path / 'site' / 'api' / 'index.html').read_text()
  assert 'wn.data_dependent_init' in page and 'Example::' not in page
  assert (tmp_path / 'site' / 'results' / 'draw-prefix' / 'figure4.png').exists()
