"""Figure 3 on made-up runs of the variational autoencoders."""

import json

import pytest

from configs import vae
from experiments import results
from scripts.report import output, sections

BOUNDS = {('iaf-plain', 0): (120, 100), ('iaf-plain', 1): (122, 104), ('diag-wn', 0): (110, 90)}


@pytest.fixture
def make_section(tmp_path, write, describe):
  """The section of runs on a data set."""

  def make(dataset, values=BOUNDS):
    for (variant, seed), bounds in values.items():
      config = vae.get_config(f'{dataset}-{variant},scaled')
      config.seed, config.epochs = seed, len(bounds)
      metric = 'test/bits_per_dim' if dataset == 'cifar10' else 'test/nll_bound'
      rows = [
        {'step': 10 * epoch, 'epoch': epoch, 'seconds': 60 * epoch, 'test/nll_bound': 0}
        | {metric: bound}
        for epoch, bound in enumerate(bounds, start=1)
      ]
      path = write(tmp_path / 'runs' / f'{variant}{seed}', config, rows, describe(dataset))
      (path / 'samples.png').write_bytes(f'samples of seed {seed}'.encode())
      for samples, value in ((5, -99.0), (128, -89.0)):
        if variant == 'diag-wn':
          likelihood = {'samples': samples, 'log_likelihood': value, 'bits_per_dim': -value}
          likelihood['step'] = 10 * len(bounds)
          (path / f'likelihood-{samples}.json').write_text(json.dumps(likelihood))
    runs, _ = results.find([tmp_path / 'runs'])
    (section,), problems = sections.make(runs, note='A note.')
    assert not problems
    return section

  return make


def test_mnist_is_in_nats_with_the_values_of_the_paper(make_section, tmp_path):
  section = make_section('mnist')
  assert section.title == 'Figure 3: VAE on mnist, protocol scaled'
  table = section.tables[0]
  assert table.frame.columns[2:].tolist() == [
    'epoch 1', 'epoch 2', 'log p(x), 128 samples', 'paper, 300 epochs',
  ]  # fmt: skip
  assert table.frame.values.tolist() == [
    ['`mnist-diag-wn`', '1', '-110.00', '-90.00', '-89.00', '–'],
    ['`mnist-iaf-plain`', '2', '-120.00, -122.00', '-100.00, -104.00', '–', '-85.85'],
  ]
  assert table.caption == 'Bound on log p(x) in nats by epoch, each seed.'
  caption = section.pictures[0].caption
  assert 'model.maps=[8, 16, 16] (paper: [16, 32, 32])' in caption and caption.endswith('A note.')
  (by_epoch,) = section.pictures[0].figure.axes
  lines = {line.get_label(): line for line in by_epoch.lines}
  assert lines['iaf-plain'].get_ydata().tolist() == [-121, -102]
  (papers,) = [line for line in by_epoch.lines if line.get_linestyle() == '--']
  assert papers.get_xydata()[-1].tolist() == [300, -85.85]
  assert papers.get_color() == lines['iaf-plain'].get_color()

  output.write([section], tmp_path / 'out')
  for variant in ('mnist-diag-wn', 'mnist-iaf-plain'):
    assert (tmp_path / 'out' / variant / 'seed0/samples.png').read_bytes() == b'samples of seed 0'
    assert not (tmp_path / 'out' / variant / 'seed1/samples.png').exists()
  assert (tmp_path / 'out' / 'mnist-diag-wn/seed0/likelihood-128.json').exists()
  assert (tmp_path / 'out/index.html').read_text().count('data:image/png') == 2


def test_a_likelihood_of_an_earlier_network_is_left_out(make_section, tmp_path, capsys):
  """It was measured, and then the run was made longer."""
  make_section('mnist')
  path = tmp_path / 'runs' / 'diag-wn0' / 'likelihood-128.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'step': 10}))
  runs, _ = results.find([tmp_path / 'runs'])
  (section,), _ = sections.make(runs)
  assert 'log p(x), 128 samples' not in section.tables[0].frame
  assert capsys.readouterr().err == (
    f'left out: {path} is from before the last step; run experiments.vae.likelihood.\n'
  )


def test_cifar10_is_in_bits_and_the_paper_in_a_panel_of_its_own(make_section):
  section = make_section('cifar10', {('iaf-plain', 0): (5.0, 4.0), ('iaf-wn', 0): (4.5, 3.5)})
  table = section.tables[0]
  assert table.frame.values.tolist() == [
    ['`cifar10-iaf-plain`', '1', '5.00', '4.00'],
    ['`cifar10-iaf-wn`', '1', '4.50', '3.50'],
  ]
  assert 'in bits per dimension' in table.caption
  assert 'the paper (right) uses nats on another scale' in section.pictures[0].caption
  by_epoch, papers = section.pictures[0].figure.axes
  assert [line.get_linestyle() for line in by_epoch.lines] == ['-', '-']
  assert [line.get_ydata()[-1] for line in papers.lines if len(line.get_ydata())] == [9150, 9280]
  assert papers.get_xlim()[1] > 450


def test_digits_have_no_values_of_the_paper(make_section):
  section = make_section('digits')
  assert section.title == 'As Figure 3: VAE on digits, protocol scaled'
  assert 'paper, 300 epochs' not in section.tables[0].frame
  assert len(section.pictures[0].figure.axes[0].lines) == 2
