"""The report's page in a real browser, opened from disk: it renders, pictures load, tables sort."""

import shutil

import pytest

from experiments import results
from scripts.report import output, sections


@pytest.fixture
def page(install, runs, make_run, tmp_path):
  """The page of a report with two sections, in a browser without a network."""
  playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  install(['chromium'], ['chromium'])
  wide = make_run('wn', 0, (9, 8), **{'model.width': 96})
  found, _ = results.find([*runs, make_run('bn', 0, (9, 100)), wide])
  made, _ = sections.make(found, note='A <note> with `code`.')
  output.write(made, tmp_path / 'out')
  moved = tmp_path / 'elsewhere' / 'page.html'  # the page alone is enough
  moved.parent.mkdir()
  shutil.move(tmp_path / 'out' / 'index.html', moved)
  with playwright.sync_playwright() as p:
    # As root, as in containers, Chromium does not start with its sandbox.
    browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.errors = []
    page.on('pageerror', lambda error: page.errors.append(str(error)))
    page.on('console', lambda message: page.errors.append(message.text))
    page.on('requestfailed', lambda request: page.errors.append(request.url))
    page.goto(moved.as_uri())
    yield page
    assert page.errors == []
    browser.close()


def test_page(page):
  assert page.title() == 'Weight normalization: results'
  titles = page.locator('h2').all_inner_texts()
  title = 'Figures 1 and 2: cifar10, protocol scaled'
  assert titles == [title, f'{title}, with model.width=96']
  assert page.locator('summary').all_inner_texts() == ['The 4 runs', 'The run']
  assert page.locator('code', has_text='wn').first.is_visible()
  caption = page.locator('figcaption').first.inner_text()
  assert 'A <note> with code.' in caption and 'Data: cifar10, 50,000 + 10,000 images' in caption
  pictures = page.locator('img')
  assert pictures.count() == 4
  for i in range(4):
    loaded = 'image => image.complete && image.naturalWidth > 500 && image.naturalHeight > 200'
    assert pictures.nth(i).evaluate(loaded)
    assert pictures.nth(i).get_attribute('alt')


def test_a_click_on_a_heading_sorts_by_number(page):
  table = page.locator('table').first
  first_column = lambda: table.locator('tbody tr td:first-child').all_inner_texts()
  assert first_column() == ['plain', 'wn', 'bn']
  heading = table.locator('th', has_text='test error')
  heading.locator('button').click()
  assert first_column() == ['wn', 'plain', 'bn']  # 20 < 40.00, 44.00 < 100
  assert heading.get_attribute('aria-sort') == 'ascending'
  heading.locator('button').click()
  assert first_column() == ['bn', 'plain', 'wn']
  assert heading.get_attribute('aria-sort') == 'descending'
  table.locator('th', has_text='parameterization').locator('button').click()
  assert first_column() == ['bn', 'plain', 'wn']
  assert heading.get_attribute('aria-sort') is None


def test_the_runs_can_be_looked_up(page):
  details = page.locator('details').first
  details.locator('summary').click()
  assert details.locator('tbody tr').count() == 4
  assert '0123456789ab' in details.locator('tbody tr').first.inner_text()
