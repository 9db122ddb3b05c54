"""The notebook runs from top to bottom on a tiny run, and is committed without output."""

from pathlib import Path

import nbformat
import pytest
from ml_collections import config_dict
from nbclient import NotebookClient

from configs import cifar
from experiments.cifar.train import train

NOTEBOOK = Path(__file__).parent.parent / 'notebooks' / 'inspect_runs.ipynb'


@pytest.fixture
def notebook():
  return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_output(notebook):
  nbformat.validate(notebook)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs and cell.execution_count is None


def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
  for variant in ('plain', 'wn'):
    config = cifar.get_config(f'{variant},tiny')
    config.run.diagnostics = True
    train(config_dict.FrozenConfigDict(config), tmp_path / 'runs' / 'cifar' / variant)
  # As a reader starts it: in its folder, with the relative path that it has for the runs.
  (tmp_path / 'notebooks').mkdir()
  monkeypatch.delenv('RUNS', raising=False)
  resources = {'metadata': {'path': tmp_path / 'notebooks'}}
  client = NotebookClient(notebook, timeout=300, kernel_name='python3', resources=resources)
  client.execute()
  text = ''.join(
    output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', [])
  )
  assert '../runs/cifar/wn' in text  # the weight-normalised run was looked into
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
