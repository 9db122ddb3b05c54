"""The notebooks run from top to bottom, and are committed without output."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / 'notebooks'


def read(name):
  return nbformat.read(NOTEBOOKS / f'{name}.ipynb', as_version=4)


@pytest.mark.parametrize('name', ['inspect_runs', 'weight_normalize_your_model'])
def test_it_is_committed_without_output(name):
  notebook = read(name)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs and cell.execution_count is None


def test_runs_are_inspected_from_top_to_bottom(tmp_path, monkeypatch):
  notebook = read('inspect_runs')
  setup = notebook.cells[1]
  setup.source = setup.source.replace(',digits', ',tiny')
  # As a reader starts it: in its folder, without runs.
  (tmp_path / 'notebooks').mkdir()
  (tmp_path / 'configs').symlink_to(NOTEBOOKS.parent / 'configs')
  monkeypatch.delenv('RUNS', raising=False)
  resources = {'metadata': {'path': tmp_path / 'notebooks'}}
  client = NotebookClient(notebook, timeout=300, kernel_name='python3', resources=resources)
  client.execute()
  text = ''.join(
    output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', [])
  )
  assert '../runs/cifar/wn-digits/seed0' in text  # the weight-normalized run was looked into
  assert 'wn.layers' not in text and 'Conv → flax.nnx' in text
  error, recorded = text.split('test error ')[1].split(' %')[0], text.split('in the summary ')[1]
  assert recorded.startswith(f'{error} %')
  pictures = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) == 4  # curves, diagnostics, filters, predictions


def test_a_model_is_normalized_from_top_to_bottom():
  notebook = read('weight_normalize_your_model')
  NotebookClient(notebook, timeout=600, kernel_name='python3').execute()
  text = ''.join(
    output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', [])
  )
  plain, normalized = (
    [float(number) for number in re.findall(r"'([0-9.]+) %'", line)]
    for line in re.findall(r'^(?:plain|wn) \[.*', text, re.MULTILINE)
  )
  # The picture that it draws: normalized weights learn at lower rates.
  assert all(b < a for a, b in zip(plain[:3], normalized[:3], strict=True))
  cosine = float(re.search(r'largest \|cos\(v, ∇v\)\| in any step: (\S+)', text)[1])
  assert cosine < 1e-5
  assert '‖v‖ never falls: True' in text
