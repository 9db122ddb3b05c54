"""Made-up runs of the CIFAR-10 experiment."""

import json

import pytest

from configs import cifar

# Test error in % after each of two epochs.
ERRORS = {('plain', 0): (50, 40), ('plain', 1): (60, 44), ('wn', 0): (30, 20)}


@pytest.fixture
def make_run(tmp_path):
  """Writes a finished run and returns its directory."""

  def make(variant, seed, errors, seconds=60.0, diagnostics=None, **changes):
    path = tmp_path / 'runs' / variant / '-'.join(map(str, [seed, *changes.values()]))
    path.mkdir(parents=True)
    config = cifar.get_config(f'{variant},scaled').to_dict()
    config |= {'seed': seed, 'epochs': len(errors)} | changes
    summary = {
      'config': config,
      'seed': seed,
      'commit': '0123456789abcdef',
      'finished': '2026-01-01T00:00:00+00:00',
    }
    rows = [{'step': 250, 'epoch': 0.5, 'seconds': 1.0, 'train/loss': 1.0} | (diagnostics or {})]
    for epoch, error in enumerate(errors, start=1):
      row = {'step': 500 * epoch, 'epoch': epoch, 'seconds': seconds * epoch}
      rows.append(row | {'test/error': error / 100})
    (path / 'summary.json').write_text(json.dumps(summary))
    (path / 'config.json').write_text(json.dumps(config))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path

  return make


@pytest.fixture
def runs(make_run):
  return [make_run(variant, seed, errors) for (variant, seed), errors in ERRORS.items()]
