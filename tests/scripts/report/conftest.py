"""Made-up runs, written as an experiment writes them."""

import json

import pytest

from configs import cifar

DIGEST = '0123456789ab' + 52 * 'c'
IMAGES = {'cifar10': (50_000, 10_000), 'mnist': (60_000, 10_000), 'digits': (1297, 500)}
# Test error in % after each of two epochs.
ERRORS = {('plain', 0): (50, 40), ('plain', 1): (60, 44), ('wn', 0): (30, 20)}


@pytest.fixture
def describe():
  """Describes a data set as a run does."""

  def describe_(name, digest=DIGEST, **published):
    train, test = IMAGES[name]
    published = None if name == 'digits' else {'train': True, 'test': True} | published
    return {'name': name, 'digest': digest, 'train_images': train, 'test_images': test} | {
      'published': published
    }

  return describe_


@pytest.fixture
def write():
  """Writes a run; without rows, one that diverged in a sweep before the first."""

  def write_(path, config, rows, data):
    path.mkdir(parents=True)
    config = json.loads(config.to_json())
    (path / 'config.json').write_text(json.dumps(config))
    (path / 'data.json').write_text(json.dumps(data))
    if rows:
      (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
      summary = {'config': config, 'data': data, 'final': rows[-1], 'commit': '0123456789abcdef'}
      summary['finished'] = '2026-01-01T00:00:00+00:00'
      (path / 'summary.json').write_text(json.dumps(summary))
    else:
      log = path.parent / 'logs' / f'{path.name}.log'
      log.parent.mkdir(exist_ok=True)
      log.write_text(
        'a line\nerror: train/loss is nan at step 7; the checkpoints before it are kept.\n'
      )
    return path

  return write_


@pytest.fixture
def make_run(tmp_path, write, describe):
  """Writes a run of the CIFAR-10 experiment and returns its directory; `errors` in %."""

  def make(variant, seed, errors, *, data=None, diagnostics=None, protocol='scaled', **changes):
    path = tmp_path / 'runs' / variant / '-'.join(map(str, [seed, *changes.values()]))
    config = cifar.get_config(f'{variant},{protocol}')
    config.update_from_flattened_dict(
      {'seed': seed, 'epochs': len(errors) or 2, 'optimizer.learning_rate': 0.001} | changes
    )
    rows = []
    for epoch, error in enumerate(errors, start=1):
      # 100 steps with twice the test error and 400 with half of it.
      for step, share in ((100, 2.0), (500, 0.5)):
        at = 500 * (epoch - 1) + step
        row = {'step': at, 'epoch': at / 500, 'seconds': 60.0 * at / 500, 'train/loss': 1.0}
        rows.append(row | {'train/error': share * error / 100} | (diagnostics or {}))
      row = {'step': 500 * epoch, 'epoch': epoch, 'seconds': 60.0 * epoch}
      rows.append(row | {'test/error': error / 100})
    return write(path, config, rows, data or describe(config.data.name))

  return make


@pytest.fixture
def runs(make_run):
  return [make_run(variant, seed, errors) for (variant, seed), errors in ERRORS.items()]
