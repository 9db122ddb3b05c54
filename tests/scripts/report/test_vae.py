"""Figure 2 on made-up runs of the variational autoencoders."""

import json

import pytest

from configs import vae
from experiments import results
from scripts.report import output, sections


@pytest.mark.parametrize(
  'dataset, size',
  [
    ('mnist', '8, 16, 16 maps (authors'),
    ('cifar10', '32 maps, 8 latent maps in each of 2, 2 layers'),
  ],
)
def test_bounds_of_both_parameterisations_stand_in_one_table(dataset, size, tmp_path):
  metric, unit = {
    'mnist': ('test/nll_bound', 'in nats'),
    'cifar10': ('test/bits_per_dim', 'in bits per dimension'),
  }[dataset]
  bounds = {('iaf', 'plain', 0): (120, 100), ('iaf', 'plain', 1): (122, 104)}
  bounds |= {('diag', 'wn', 0): (110, 90)}
  for (posterior, param, seed), values in bounds.items():
    path = tmp_path / f'{posterior}{param}{seed}'
    path.mkdir()
    config = vae.get_config(f'{dataset}-{posterior}-{param},scaled').to_dict()
    config |= {'seed': seed, 'epochs': 2}
    rows = [
      {
        'step': 10 * epoch,
        'epoch': epoch,
        'seconds': 60 * epoch,
        'test/nll_bound': 0,
        metric: value,
      }
      for epoch, value in enumerate(values, start=1)
    ]
    (path / 'summary.json').write_text(json.dumps({'config': config, 'final': rows[-1]}))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (path / 'samples.png').write_bytes(f'samples of seed {seed}'.encode())
  for samples, value in ((5, -99.0), (128, -89.0)):
    likelihood = {'samples': samples, 'log_likelihood': value, 'bits_per_dim': -value}
    (tmp_path / f'diagwn0/likelihood-{samples}.json').write_text(json.dumps(likelihood))
  runs, _ = results.find([tmp_path])
  (section,), problems = sections.make(runs, note='A note.')
  assert not problems
  table = section.tables[0]
  assert table.frame.values.tolist() == [
    [f'`{dataset}-diag-wn`', '1', '110.00', '90.00', '89.00'],
    [f'`{dataset}-iaf-plain`', '2', '121.00 ± 1.00', '102.00 ± 2.00', '–'],
  ]
  assert table.frame.columns[-1] == '−log p(x), 128 samples' and unit in table.caption
  assert size in table.caption and '2 epochs' in table.caption and 'A note.' in table.caption
  by_epoch, _ = section.pictures[0].figure.axes
  assert by_epoch.get_ylim()[1] == 122
  output.write([section], tmp_path / 'out')
  for variant in (f'{dataset}-diag-wn', f'{dataset}-iaf-plain'):
    assert (tmp_path / 'out' / variant / 'seed0/samples.png').read_bytes() == b'samples of seed 0'
    assert not (tmp_path / 'out' / variant / 'seed1/samples.png').exists()
  assert (tmp_path / 'out' / f'{dataset}-diag-wn/seed0/likelihood-128.json').exists()
  assert (tmp_path / 'out/index.html').read_text().count('data:image/png') == 2
