"""Figure 2 on made-up runs of the variational autoencoders."""

import json

import pytest

from configs import vae
from experiments import results
from scripts.report import sections


@pytest.mark.parametrize(
  'dataset, size',
  [
    ('mnist', '8, 16, 16 maps (authors'),
    ('cifar10', '32 maps, 8 latent maps in each of 2, 2 layers'),
  ],
)
def test_bounds_of_both_parameterisations_stand_in_one_table(dataset, size, tmp_path):
  bounds = {('iaf', 'plain', 0): (120, 100), ('iaf', 'plain', 1): (122, 104)}
  bounds |= {('diag', 'wn', 0): (110, 90)}
  for (posterior, param, seed), values in bounds.items():
    path = tmp_path / f'{posterior}{param}{seed}'
    path.mkdir()
    config = vae.get_config(f'{dataset}-{posterior}-{param},scaled').to_dict()
    config |= {'seed': seed, 'epochs': 2}
    rows = [
      {'step': 10 * epoch, 'epoch': epoch, 'seconds': 60 * epoch, 'test/nll_bound': value}
      for epoch, value in enumerate(values, start=1)
    ]
    (path / 'summary.json').write_text(json.dumps({'config': config, 'final': rows[-1]}))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  runs, _ = results.find([tmp_path])
  (section,), problems = sections.make(runs, note='A note.')
  assert not problems
  table = section.tables[0]
  assert table.frame.values.tolist() == [
    [f'`{dataset}-diag-wn`', '1', '110.00', '90.00'],
    [f'`{dataset}-iaf-plain`', '2', '121.00 ± 1.00', '102.00 ± 2.00'],
  ]
  assert size in table.caption and '2 epochs' in table.caption and 'A note.' in table.caption
  by_epoch, _ = section.pictures[0].figure.axes
  assert by_epoch.get_ylim()[1] == 104
