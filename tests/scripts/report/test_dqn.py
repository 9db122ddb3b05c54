"""Table 2 and Figure 4 on made-up runs of deep Q-learning."""

import json

import numpy as np
import pytest

from configs import dqn
from experiments import results
from experiments.training.errors import UserError
from scripts.report import output, sections


@pytest.fixture
def make_run(tmp_path):
  """Writes a finished run with a score after each epoch."""

  def make(variant, seed, scores, rate=0.0001):
    path = tmp_path / 'runs' / f'{variant}{seed}{rate}'
    path.mkdir(parents=True)
    config = dqn.get_config(f'{variant},scaled').to_dict()
    config |= {'seed': seed, 'epochs': len(scores), 'learning_rate': rate}
    rows = [
      {'step': 50_000 * epoch, 'epoch': epoch, 'seconds': 60 * epoch, 'eval/score': score}
      for epoch, score in enumerate(scores, start=1)
    ]
    training = [(1000, 1, 1), (45_000 * len(scores), 7, 1)]  # not in the last tenth
    training += [(46_000 * len(scores), 10 * seed, 3), (49_000 * len(scores), 40, 1)]
    rows[:0] = [
      {'step': step, 'epoch': step / 50_000, 'seconds': 1, 'train/episode_return': mean}
      | {'train/episodes': count}
      for step, mean, count in training
    ]
    (path / 'summary.json').write_text(json.dumps({'config': config, 'final': rows[-1]}))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))

  return make


def make_section(tmp_path, **kwargs):
  runs, _ = results.find([tmp_path / 'runs'])
  (section,), problems = sections.make(runs, **kwargs)
  assert not problems
  return section


def test_games_and_parameterisations_stand_in_one_table(make_run, tmp_path):
  make_run('space_invaders-plain', 0, (200, 500, 400))
  make_run('space_invaders-plain', 1, (300, 100, 600))
  make_run('space_invaders-wn', 0, (250, 700, 650))
  make_run('pong-wn', 0, (-20, -10, 3.5))
  (tmp_path / 'runs' / 'pong-wn00.0001' / 'episode.gif').write_bytes(b'an episode')
  section = make_section(tmp_path, note='A note.')
  table = section.tables[0]
  assert list(table.frame) == [
    'game', 'parameterisation', 'seeds', 'highest score', 'last score', 'training, last tenth',
    'random play', 'paper, 200 million frames',
  ]  # fmt: skip
  assert table.frame.values.tolist() == [
    ['pong', '`wn`', '1', '3.50', '3.50', '10.00', '–', '–'],
    [
      'space_invaders',
      '`plain`',
      '2',
      '550.00 ± 50.00',
      '500.00 ± 100.00',
      '13.75 ± 3.75',
      '148',
      '1,779',
    ],
    ['space_invaders', '`wn`', '1', '700.00', '650.00', '10.00', '148', '2,179'],
  ]
  assert 're-evaluated' not in table.caption
  assert '3 times in 0.6 million frames (paper: 200 million)' in table.caption
  assert table.caption.endswith('Learning rate 0.0001. A note.')
  score, episode = section.pictures
  assert episode.name == 'pong-wn/seed0/episode' and 'an episode at the end' in episode.caption
  pong, _, invaders, training = score.figure.axes
  assert pong.get_title() == 'pong: evaluation'
  assert training.get_title().startswith('space_invaders: training')
  np.testing.assert_allclose(invaders.lines[0].get_xydata(), [[0.2, 250], [0.4, 300], [0.6, 500]])
  np.testing.assert_allclose(training.lines[0].get_xydata(), [[0.2, 1], [0.6, 12.4]])
  assert list(section.data['score']) == [
    'epoch', 'pong-wn/seed0', 'space_invaders-plain/seed0', 'space_invaders-plain/seed1',
    'space_invaders-wn/seed0',
  ]  # fmt: skip


def test_the_best_network_re_evaluated(make_run, tmp_path):
  for seed in (0, 1):
    make_run('breakout-plain', seed, (5, 20))
    make_run('breakout-wn', seed, (5, 20))
    path = tmp_path / 'runs' / f'breakout-wn{seed}0.0001'
    for name, score in (('30', 9), ('100', 12.5 + seed), ('100-epsilon-1', 1)):
      (path / f'score-{name}.json').write_text(json.dumps({'score': score, 'highest_score': 20}))
  section = make_section(tmp_path)
  table = section.tables[0].frame
  assert list(table)[3:6] == ['highest score', 're-evaluated, 100 episodes', 'last score']
  assert table['re-evaluated, 100 episodes'].tolist() == ['–', '13.00 ± 0.50']
  assert 're-evaluated: the same network in other' in section.tables[0].caption
  output.write([section], tmp_path / 'out')
  copied = {path.name for path in (tmp_path / 'out/breakout-wn/seed1').glob('score-*')}
  assert copied == {'score-30.json', 'score-100.json', 'score-100-epsilon-1.json'}

  (path / 'score-100.json').unlink()  # of seed 1: 30 episodes are what all have
  assert make_section(tmp_path).tables[0].frame['re-evaluated, 30 episodes'][1] == '9.00 ± 0.00'
  (path / 'score-30.json').unlink()
  table = make_section(tmp_path).tables[0].frame
  assert table['re-evaluated, 100 episodes'].tolist() == ['–', '12.50 (1 of 2)']
  (path / 'score-100.json').write_text('{"score": 7.0, "highest_score": 19.0}')
  with pytest.raises(UserError, match=r'score-100.json is damaged \(it is of a network that has'):
    make_section(tmp_path)


def test_the_best_rate_is_that_of_the_largest_highest_score(make_run, tmp_path):
  make_run('breakout-wn', 0, (5, 40, 10), rate=0.0001)
  make_run('breakout-wn', 0, (5, 20, 30), rate=0.0002)
  make_run('breakout-plain', 0, (5, 20, 30), rate=0.0002)
  table, rates = (table.frame for table in make_section(tmp_path).tables)
  assert table['learning rate'].tolist() == ['0.0002', '0.0001']
  assert table['highest score'].tolist() == ['30.00', '40.00']
  assert rates.values.tolist() == [
    ['`breakout-plain`', '–', '**30.00**'],
    ['`breakout-wn`', '**40.00**', '30.00'],
  ]


def test_a_run_without_all_evaluations_is_named(make_run, tmp_path):
  make_run('breakout-wn', 0, (5, 40))
  path = next((tmp_path / 'runs').iterdir()) / 'metrics.jsonl'
  path.write_text(''.join(path.read_text().splitlines(keepends=True)[:-1]))
  runs, _ = results.find([tmp_path / 'runs'])
  made, (problem,) = sections.make(runs)
  assert not made and 'lacks evaluations: there should be 2' in problem
