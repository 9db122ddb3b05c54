"""Figures 5 and 6 on made-up runs of deep Q-learning."""

import json

import numpy as np
import pytest

from configs import dqn
from experiments import results
from scripts.report import output, sections


@pytest.fixture
def make_run(tmp_path, write):
  """Writes a run with a score after each epoch; without scores, one that diverged."""

  def make(variant, seed, scores, rate=0.0001):
    config = dqn.get_config(f'{variant},scaled')
    config.seed, config.epochs, config.optimizer.learning_rate = seed, len(scores) or 3, rate
    rows = [
      {'step': 50_000 * epoch, 'epoch': epoch, 'seconds': 60 * epoch, 'eval/score': score}
      for epoch, score in enumerate(scores, start=1)
    ]
    training = [(1000, 1, 1), (45_000 * len(scores), 7, 1)]  # not in the last tenth
    training += [(46_000 * len(scores), 10 * seed, 3), (49_000 * len(scores), 40, 1)]
    if scores:
      rows[:0] = [
        {'step': step, 'epoch': step / 50_000, 'seconds': 1, 'train/episode_return': mean}
        | {'train/episodes': count}
        for step, mean, count in training
      ]
    game = config.variant.game
    data = {'name': f'ale_py 0.12.1/{game}', 'digest': f'{len(game):064x}'}
    return write(tmp_path / 'runs' / f'{variant}{seed}{rate}', config, rows, data)

  return make


def make_section(tmp_path, **kwargs):
  runs, _ = results.find([tmp_path / 'runs'])
  (section,), problems = sections.make(runs, **kwargs)
  assert not problems
  return section


def test_an_unfinished_run_has_its_last_score(make_run, tmp_path):
  make_run('pong-plain', 0, (-20, -10, 3.5))
  (make_run('pong-wn', 0, (-20, -15, -11)) / 'summary.json').unlink()
  (section,), problems = sections.make(results.find([tmp_path / 'runs'])[0])
  assert section.tables[-1].name == 'unfinished' and len(problems) == 1
  assert section.tables[-1].frame.values.tolist() == [
    ['`pong-wn`', '0.0001', '0', '3 of 3', '-11.00']
  ]


def test_games_and_parameterizations_stand_in_one_table(make_run, tmp_path):
  make_run('space_invaders-plain', 0, (200, 500, 400))
  make_run('space_invaders-plain', 1, (300, 100, 600))
  make_run('space_invaders-wn', 0, (250, 700, 650))
  (make_run('pong-wn', 0, (-20, -10, 3.5)) / 'episode.gif').write_bytes(b'an episode')
  section = make_section(tmp_path, note='A note.')
  assert section.title == 'Figures 5 and 6: Atari games, protocol scaled'
  table = section.tables[0]
  assert list(table.frame) == [
    'game', 'parameterization', 'seeds', 'learning rate', 'tried', 'highest score', 'last score',
    'training, last tenth', 'random play', 'paper, 200 million frames', 'Mnih et al. (2015)',
  ]  # fmt: skip
  plain = ['500.00, 600.00', '400.00, 600.00', '10.00, 17.50', '148', '1,779', '1,975']
  wn = ['700.00', '650.00', '10.00', '148', '2,179', '–']
  assert table.frame.values.tolist() == [
    ['space_invaders', '`plain`', '2', '0.0001', '0.0001', *plain],
    ['space_invaders', '`wn`', '1', '0.0001', '0.0001', *wn],
    ['pong', '`wn`', '1', '0.0001', '0.0001', '3.50', '3.50', '10.00', '–', '–', '–'],
  ]
  assert 're-evaluated' not in table.caption
  assert table.caption.startswith('Figure 6: the highest of 3 scores')
  score, episode = section.pictures
  assert score.caption.startswith('Figure 5 (Space Invaders in the paper): score at ε = 0.05')
  assert 'epochs=3 (paper: 200)' in score.caption and score.caption.endswith(' A note.')
  assert episode.name == 'pong-wn/seed0/episode' and 'an episode at the end' in episode.caption
  assert section.source == (
    'Data: ale_py 0.12.1/space_invaders, digest 000000000000 and ale_py 0.12.1/pong, digest '
    '000000000000.'
  )
  assert list(section.data['score']) == [
    'epoch', 'space_invaders-plain/seed0', 'space_invaders-plain/seed1', 'space_invaders-wn/seed0',
    'pong-wn/seed0',
  ]  # fmt: skip


def test_curves_of_evaluation_and_training(make_run, tmp_path):
  make_run('space_invaders-plain', 0, (200, 500, 400))
  make_run('space_invaders-plain', 1, (300, 100, 600))
  make_run('pong-wn', 0, (-20, -10, 3.5))
  invaders, training, pong, _ = make_section(tmp_path).pictures[0].figure.axes
  assert pong.get_title() == 'pong: evaluation'
  assert training.get_title().startswith('space_invaders: training')
  np.testing.assert_allclose(invaders.lines[0].get_xydata(), [[0.2, 250], [0.4, 300], [0.6, 500]])
  np.testing.assert_allclose(training.lines[0].get_xydata(), [[0.2, 1], [0.6, 12.4]])
  papers = [line for line in invaders.lines if line.get_linestyle() == '--']
  assert [line.get_xydata()[-1].tolist() for line in papers] == [[200, 1600]]
  assert not [line for line in (*training.lines, *pong.lines) if line.get_linestyle() == '--']


def test_the_best_network_re_evaluated(make_run, tmp_path, capsys):
  for seed in (0, 1):
    make_run('breakout-plain', seed, (5, 20))
    path = make_run('breakout-wn', seed, (5, 20))
    for name, score in (('30', 9), ('100', 12.5 + seed), ('100-epsilon-1', 1)):
      (path / f'score-{name}.json').write_text(json.dumps({'score': score, 'highest_score': 20}))
  section = make_section(tmp_path)
  table = section.tables[0].frame
  assert list(table)[5:8] == ['highest score', 're-evaluated, 100 episodes', 'last score']
  assert table['re-evaluated, 100 episodes'].tolist() == ['–', '12.50, 13.50']
  assert 're-evaluated: the same network in other' in section.tables[0].caption
  output.write([section], tmp_path / 'out')
  copied = {path.name for path in (tmp_path / 'out/breakout-wn/seed1').glob('score-*')}
  assert copied == {'score-30.json', 'score-100.json', 'score-100-epsilon-1.json'}

  (path / 'score-100.json').unlink()  # of seed 1: 30 episodes are what all have
  assert make_section(tmp_path).tables[0].frame['re-evaluated, 30 episodes'][1] == '9.00, 9.00'
  (path / 'score-30.json').unlink()
  table = make_section(tmp_path).tables[0].frame
  assert table['re-evaluated, 100 episodes'].tolist() == ['–', '12.50 (1 of 2)']
  (path / 'score-100.json').write_text('{"score": 7.0, "highest_score": 19.0}')
  capsys.readouterr()
  table = make_section(tmp_path).tables[0].frame
  assert table['re-evaluated, 100 episodes'].tolist() == ['–', '12.50 (1 of 2)']
  said = capsys.readouterr().err
  assert (
    said
    == f'left out: {path}/score-100.json is not of the highest score; run experiments.dqn.score.\n'
  )


def test_the_best_rate_is_that_of_the_largest_highest_score(make_run, tmp_path):
  make_run('breakout-wn', 0, (5, 40, 10), rate=0.0001)
  make_run('breakout-wn', 0, (5, 20, 30), rate=0.0002)
  make_run('breakout-plain', 0, (5, 20, 30), rate=0.0002)
  make_run('breakout-plain', 0, (), rate=0.0003)
  section = make_section(tmp_path)
  table, rates = (table.frame for table in section.tables)
  assert table['learning rate'].tolist() == ['0.0002', '0.0001']
  assert table['tried'].tolist() == ['0.0002, 0.0003', '0.0001, 0.0002']
  assert table['highest score'].tolist() == ['30.00', '40.00']
  assert rates.values.tolist() == [
    ['`breakout-plain`', '–', '**30.00**', 'diverged'],
    ['`breakout-wn`', '**40.00**', '30.00', '–'],
  ]
  (axes,) = section.pictures[1].figure.axes
  (cross,) = [line for line in axes.lines if line.get_marker() == 'x']
  assert cross.get_ydata()[0] < 0.1  # at the bad end


def test_a_run_without_all_evaluations_is_named(make_run, tmp_path):
  path = make_run('breakout-wn', 0, (5, 40)) / 'metrics.jsonl'
  path.write_text(''.join(path.read_text().splitlines(keepends=True)[:-1]))
  runs, _ = results.find([tmp_path / 'runs'])
  made, (problem,) = sections.make(runs)
  assert not made and 'lacks evaluations: there should be 2' in problem
