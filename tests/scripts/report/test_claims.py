"""The table of claims: its numbers are those of the rows, its verdicts follow the rules."""

import json
import re

import pytest

from configs import cifar, dqn, draw, vae
from experiments.runtime.errors import UserError
from scripts.report import claims, paper, seeds
from tests.test_readme import README, ROOT

MODULES = {'cifar': cifar, 'dqn': dqn, 'draw': draw, 'vae': vae}
KEYS = {'rate': 'optimizer.learning_rate', 'dtype': 'model.dtype'}


def test_the_table_in_the_readme_is_that_of_the_results():
  block = re.search(r'<!-- claims -->\n\n(.*?)\n\n<!-- /claims -->', README, re.DOTALL)[1]
  assert block == claims.table(ROOT / 'results')


def claim_on(text):
  (claim,) = (claim for claim in claims.CLAIMS if text in claim.text)
  return claim


def write(folder, variant, seed, values, metric='test/nll_bound', *, end='finished', **changes):
  """Writes a run of the paper's protocol, evaluated after each epoch, with `changes` to its config.

  Its experiment is the one that the name of a folder above it begins with. Without the end
  'finished' it has no summary; 'diverged' is in its log.
  """
  (module,) = (m for part in folder.parts if (m := MODULES.get(part.split('-')[0])))
  config = module.get_config(variant)
  for key, value in ({'seed': seed, 'epochs': len(values)} | changes).items():
    config.update_from_flattened_dict({KEYS.get(key, key): value})
  path = folder / f'seed{seed}'
  path.mkdir(parents=True)
  rows = [
    {'step': epoch, 'epoch': float(epoch), 'seconds': 1.0, metric: value, 'frames': 200_000 * epoch}
    for epoch, value in enumerate(values, start=1)
  ]
  path.joinpath('metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  config = json.loads(config.to_json())
  if end == 'finished':
    path.joinpath('summary.json').write_text(json.dumps({'config': config}))
  else:
    path.joinpath('config.json').write_text(json.dumps(config))
  if end == 'diverged':
    (folder / 'logs').mkdir(exist_ok=True)
    (folder / 'logs' / f'seed{seed}.log').write_text('error: train/loss is nan at step 7\n')


def write_cifar(results, variant, values, *, rate=0.003, **changes):
  """Writes seed 0 of a run at the paper's protocol, in a folder of its rate."""
  folder = results / 'cifar-paper' / variant / f'learning_rate={rate}'
  write(folder, variant, 0, values, 'test/error', rate=rate, **changes)
  return folder / 'seed0'


@pytest.mark.parametrize(
  'wn, plain, verdict',
  [(100.0, 150.0, 'consistent so far'), (150, 149.5, 'not seen'), (160, 150, 'contradicted')],
)
def test_verdicts(wn, plain, verdict, tmp_path):
  """In the last epoch that both have."""
  write(tmp_path / 'draw-prefix' / 'wn', 'wn', 0, [200, wn, 1])
  write(tmp_path / 'draw-prefix' / 'plain', 'plain', 0, [200, plain])
  finding = claim_on('DRAW').find(tmp_path)
  assert finding.verdict == verdict
  assert f'`wn` −{wn:.1f}' in finding.ours and '2 epochs' in finding.ours
  assert '; `wn` alone −1.0 after 3; −120 nats after ' in finding.ours
  assert finding.ours.endswith(f'`wn` {2 if wn <= 120 else 3}, `plain` over 2 epochs')


ERRORS = {'plain': 8.5, 'wn': 8.4, 'bn': 8.1, 'mean_bn': 8.6, 'wn_mean_bn': 7.4}


@pytest.mark.parametrize(
  'errors, epochs, verdict',
  [
    (ERRORS, 200, 'reproduced'),
    (ERRORS, 199, 'consistent so far'),
    ({**ERRORS, 'plain': 9.5}, 200, 'consistent so far'),
    ({'wn': 8.4, 'wn_mean_bn': 7.4}, 200, 'consistent so far'),
    ({'wn': 7.0, 'wn_mean_bn': 7.4}, 200, 'contradicted'),
  ],
)
def test_verdicts_on_the_table_of_errors(errors, epochs, verdict, tmp_path):
  for variant, error in errors.items():
    for rate, more in ((0.003, 0.0), (0.01, 0.5)):  # the best rate counts
      values = [(error + more) / 100] * epochs
      write_cifar(tmp_path, variant, values, rate=rate)
  assert claim_on('lowest test error').find(tmp_path).verdict == verdict


def test_lower_errors_are_better(tmp_path):
  """And other variants beside the pair don't matter."""
  for variant, error in (('wn', 0.10), ('plain', 0.12), ('bn', 0.9)):
    write(tmp_path / 'cifar-fifty' / variant, variant, 0, [error], 'test/error')
  assert claim_on('CIFAR-10: `wn` learns faster').find(tmp_path).verdict == 'consistent so far'


@pytest.mark.parametrize(
  'wn, plain, epochs, verdict',
  [
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.2}, 200, 'reproduced'),
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.2}, 120, 'consistent so far'),
    ({50: 3.9, 100: 1.5}, {50: 4.9, 100: 3.2}, 200, 'consistent so far'),
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.7}, 200, 'consistent so far'),
    ({50: 3.4, 100: 3.3}, {50: 4.9, 100: 3.2}, 200, 'contradicted'),
    ({50: 3.4, 100: 1.5}, {50: 4.9, 100: 3.2}, 99, 'not run'),
  ],
)
def test_verdicts_on_the_training_error(wn, plain, epochs, verdict, tmp_path):
  """Means over the two rows of an epoch; the paper has 3.3 and 1.6, 4.8 and 3.1 %."""
  for variant, errors in (('wn', wn), ('plain', plain)):
    path = write_cifar(tmp_path, variant, [0.1] * epochs, rate=cifar.RATE_OF[variant])
    write_cifar(tmp_path, variant, [0.09] * epochs, rate=0.001)  # not that of Figure 1
    rows = [
      {'step': 0, 'epoch': epoch - half, 'seconds': 1.0, 'train/error': error / 100 + half / 100}
      for epoch, percent in errors.items()
      for half, error in ((0.5, percent - 0.25), (0.0, percent - 0.25))
    ]
    with path.joinpath('metrics.jsonl').open('a') as file:
      file.writelines(json.dumps(row) + '\n' for row in rows)
  finding = claim_on('CIFAR-10: `wn` learns faster').find(tmp_path)
  assert finding.verdict == verdict
  if verdict != 'not run':
    assert finding.ours.startswith(f'`wn` {wn[50]:.1f}, `plain` {plain[50]:.1f} % after 50 epochs;')


@pytest.mark.parametrize(
  'errors, epochs, verdict',
  [
    ({'wn': [8.5], 'plain': [8.1]}, 200, 'reproduced'),
    ({'wn': [8.5], 'plain': [9.1, 8.9]}, 200, 'reproduced'),
    ({'wn': [8.5], 'plain': [9.2, 9.1]}, 200, 'too early'),
    ({'wn': [8.5, 8.6, 9.0, 9.0], 'plain': [9.1, 9.2, 9.3]}, 200, 'too early'),
    ({'wn': [8.5, 8.6, 9.0, 9.0], 'plain': [9.1, 9.2, 9.3, 90.0]}, 200, 'contradicted'),
    ({'wn': [8.5], 'plain': [8.1]}, 199, 'not run'),
    ({'wn': [8.5], 'bn': [8.1]}, 200, 'not run'),
  ],
)
def test_verdicts_on_equal_errors(errors, epochs, verdict, tmp_path):
  """Of the best of the rates that were tried."""
  for variant, of_rates in errors.items():
    for rate, error in zip(cifar.RATES, of_rates):
      values = [error / 100] * epochs
      write_cifar(tmp_path, variant, values, rate=rate)
  assert claim_on('equal test errors').find(tmp_path).verdict == verdict


def test_the_text_on_equal_errors_names_the_rates_and_the_released_baseline(tmp_path):
  for variant, rate, error in (
    ('wn', 0.003, 0.082),
    ('plain', 0.001, 0.09),
    ('plain', 0.0003, 0.1),
    ('plain_released', 0.001, 0.085),
  ):
    write_cifar(tmp_path, variant, [error] * 200, rate=rate, dtype='bfloat16')
  write_cifar(tmp_path, 'plain_released', [0.01] * 50, rate=0.003)  # shorter
  assert claim_on('equal test errors').find(tmp_path).ours == (
    '`wn` 8.20, `plain` 9.00 % after 200 epochs (the best of the rates `wn` 0.003; `plain` 0.0003, '
    '0.001; 1 seed, hidden units in bfloat16); `plain_released` 8.50 at 0.001'
  )


def test_a_copy_of_a_run_in_another_folder_counts_once(tmp_path):
  write_cifar(tmp_path, 'wn_mean_bn', [0.08])
  write(tmp_path / 'cifar-paper' / 'wn_mean_bn', 'wn_mean_bn', 0, [0.08], 'test/error', rate=0.003)
  assert '(1 seed)' in claim_on('lowest test error').find(tmp_path).ours


def test_two_runs_of_one_name_with_other_configs_are_refused(tmp_path):
  for folder, changes in (('first', {}), ('second', {'model.initial_g': 0.0})):
    write(tmp_path / 'draw-prefix' / folder / 'wn', 'wn', 0, [100.0], **changes)
  with pytest.raises(UserError, match='draw-prefix has two runs of wn,'):
    claim_on('DRAW').find(tmp_path)


@pytest.mark.parametrize(
  'folder, variant, metric, text',
  [
    ('cifar-paper', 'mean_bn', 'test/error', 'lowest test error'),
    ('cifar-paper', 'plain', 'test/error', 'equal test errors'),
    ('cifar-fifty', 'wn', 'test/error', 'CIFAR-10: `wn` learns faster'),
    ('draw-prefix', 'wn', 'test/nll_bound', 'DRAW'),
    ('vae-mnist', 'mnist-iaf-wn', 'test/nll_bound', 'VAE'),
    ('dqn-space-invaders', 'space_invaders-wn', 'eval/score', 'DQN'),
    ('cifar-scaled', 'wn', 'test/error', 'wider range'),
  ],
)
def test_unfinished_runs_count_for_no_claim(folder, variant, metric, text, tmp_path):
  claim = claim_on(text)
  names = ERRORS if 'cifar' in folder else ('wn', 'plain')
  prefix = variant.removesuffix('wn').removesuffix('plain') if '-' in variant else ''
  for results in (tmp_path / 'with', tmp_path / 'without'):
    for name in (f'{prefix}{name}' for name in names):
      for rate in (0.0003, 0.003):
        place = results / folder / name / f'learning_rate={rate}'
        write(place, name, 0, [0.5] * 200, metric, rate=rate)
      write(results / folder / name, name, 1, [0.5] * 200, metric, rate=0.003)
  unfinished = tmp_path / 'with' / folder / variant
  write(unfinished, variant, 7, [0.1] * 3, metric, end='stopped')
  write(unfinished / 'learning_rate=0.01', variant, 0, [0.1] * 3, metric, rate=0.01, end='stopped')
  assert claim.find(tmp_path / 'with') == claim.find(tmp_path / 'without')
  assert claim.find(tmp_path / 'with').verdict != 'not run'


def test_hidden_units_in_bfloat16_are_told(tmp_path):
  for dtype, end in (
    ('float32', '(1 seed)'),
    ('bfloat16', '(1 seed, hidden units in bfloat16)'),
  ):
    write_cifar(tmp_path / dtype, 'wn_mean_bn', [0.08], dtype=dtype)
    ours = claim_on('lowest test error').find(tmp_path / dtype).ours
    assert ours == f'`wn_mean_bn` 8.00 % after 1 epochs {end}'


@pytest.mark.parametrize(
  'wn, plain, verdict',
  [
    ([20, 18, 17, 19], [30, 21, 40, 90], 'consistent so far'),  # 33 against 1 times
    ([20, 18, 17, 30], [22, 21, 25, 90], 'not seen'),
    ([20, 30, 31, 90], [22, 21, 25, 90], 'contradicted'),
    ([20, 18, 17], [30, 21, 40, 90], 'too early'),
    ([20, 18, 17, 19], [30, 21, None, None], 'consistent so far'),  # it diverged
  ],
)
def test_the_range_of_usable_rates(wn, plain, verdict, tmp_path):
  for variant, errors in (('wn', wn), ('plain', plain), ('bn', [1])):
    for rate, error in zip(cifar.RATES, errors):
      values = [0.9] * 11 + ([] if error is None else [error / 100])
      folder = tmp_path / 'cifar-scaled' / variant / f'learning_rate={rate}'
      end = 'diverged' if error is None else 'finished'
      write(folder, variant, 0, values, 'test/error', rate=rate, end=end)
  finding = claim_on('wider range').find(tmp_path)
  assert finding.verdict == verdict
  assert f'`wn` {wn[0]:.1f} at 0.0003, {wn[1]:.1f} at 0.001' in finding.ours


@pytest.mark.parametrize('wn', [80.0, 90.0, 100.0])
@pytest.mark.parametrize(
  'text, folder, prefix, metric, epochs',
  [
    ('VAE', 'vae-mnist', 'mnist-iaf-', 'test/nll_bound', 80),
    ('DQN', 'dqn-space-invaders', 'space_invaders-', 'eval/score', 51),  # 10.2 million frames
  ],
)
def test_no_verdict_before_the_paper_sees_a_difference(
  text, folder, prefix, metric, epochs, wn, tmp_path
):
  """Whatever the difference is."""
  verdicts = []
  for length in (epochs - 1, epochs):
    for name, value in (('wn', wn), ('plain', 90.0)):
      place = tmp_path / str(length) / folder / (prefix + name)
      factor = 1 if text == 'VAE' else 20
      write(place, prefix + name, 0, [factor * value] * length, metric)
    verdicts.append(claim_on(text).find(tmp_path / str(length)).verdict)
  assert verdicts[0] == 'too early'
  assert verdicts[1] != 'too early' and (verdicts[1] == 'not seen') == (wn == 90.0)


def test_the_highest_scores_of_deep_q_learning_and_its_frames_are_told(tmp_path):
  """As in the paper's table; the last score of `wn` is lower."""
  for name, scores in (('wn', [280, 150]), ('plain', [150, 260])):
    variant = f'space_invaders-{name}'
    write(tmp_path / 'dqn-space-invaders' / variant, f'{variant},scaled', 0, scores, 'eval/score')
  assert claim_on('DQN').find(tmp_path).ours == (
    '`wn` 280, `plain` 260 points (the highest in 0.4 million frames of the scaled protocol, 1 '
    'seed)'
  )


@pytest.mark.parametrize(
  'text, folder, figure, prefix, metric, factor, epochs',
  [
    ('VAE', 'vae-mnist', 3, 'mnist-iaf-', 'test/nll_bound', -1, 300),
    ('DRAW', 'draw-prefix', 4, '', 'test/nll_bound', -1, 100),
    ('DQN', 'dqn-space-invaders', 6, 'space_invaders-', 'eval/score', 1, 200),
  ],
)
def test_the_paper_s_protocol_with_its_values_is_reproduced(
  text, folder, figure, prefix, metric, factor, epochs, tmp_path
):
  """Not so a shorter run, one with another value in its config, or values that are far off."""

  def verdict(case, epochs=epochs, shift=0, **changes):
    for name in ('wn', 'plain'):
      value = factor * (paper.last(figure)[prefix + name] + shift)
      variant = prefix + name
      write(tmp_path / case / folder / variant, variant, 0, [value] * epochs, metric, **changes)
    finding = claim_on(text).find(tmp_path / case)
    assert ('unlike the paper: ' in finding.ours) == (case == 'changed')
    return finding.verdict

  assert verdict('whole') == 'reproduced'
  assert verdict('short', epochs=epochs - 1) == 'consistent so far'
  assert verdict('off', shift=500) == 'consistent so far'
  key = 'replay.batch_size' if text == 'DQN' else 'batch_size'
  assert verdict('changed', **{key: 17}) == 'consistent so far'


@pytest.mark.parametrize(
  'text, folder, metric, begin',
  [
    ('DRAW', 'draw-prefix', 'test/nll_bound', '`wn` −99.0'),
    ('CIFAR-10: `wn` learns faster', 'cifar-fifty', 'test/error', '`wn` 9900.00'),
  ],
)
def test_the_best_of_the_rates_counts_wherever_its_copy_lies(text, folder, metric, begin, tmp_path):
  """A report has a folder for each rate where there are several."""
  write(tmp_path / folder / 'plain', 'plain', 0, [150.0], metric)
  write(tmp_path / folder / 'wn', 'wn', 0, [170.0], metric, rate=0.01)
  write(tmp_path / folder / 'wn' / 'learning_rate=0.001', 'wn', 0, [99.0], metric, rate=0.001)
  finding = claim_on(text).find(tmp_path)
  assert finding.verdict == 'consistent so far' and finding.ours.startswith(begin)


def test_nothing_recorded(tmp_path):
  assert all(claim.find(tmp_path).verdict == 'not run' for claim in claims.CLAIMS)
  assert '| – | *not run* |' in claims.table(tmp_path)


def test_an_interval_from_three_seeds_on():
  assert seeds.over_seeds([1.0, 2.0], 1) == '1.0, 2.0'
  assert seeds.over_seeds([1.0, 2.0, 3.0], 1) == '2.0 ± 2.5'  # 4.303 / √3
