"""The benchmark of deep Q-learning and the loop that ours is measured against."""

import json

import numpy as np
import pytest
from ml_collections import config_dict

from configs import dqn as dqn_configs
from experiments.runtime.errors import UserError
from scripts.benchmark import dqn, steps
from scripts.benchmark.single_environment import JaxAgent, SingleEnvironment, TorchAgent


def test_agent_steps_are_measured_in_turns(benchmark, tmp_path, monkeypatch, capsys):
  turns = []

  class Process:
    first_step_seconds = 1.0

    def __init__(self, param, kind):
      if kind == 'act' and param == 'plain':
        raise UserError('plain, act failed: for a reason')
      self.name = (param, kind)

    def step(self):
      turns.append(self.name)
      return float(len(turns))

    close = lambda self: 0.5
    kill = lambda self: None

  monkeypatch.setattr(dqn, '_start', Process)
  monkeypatch.setattr(steps.importlib.util, 'find_spec', lambda name: None)
  benchmark('dqn', '--rounds', 2, '--json', tmp_path / 'x.json')
  errors = capsys.readouterr().err
  assert 'left out: plain, act failed: for a reason' in errors
  assert f'left out: {steps.NO_TORCH}' in errors
  content = json.loads((tmp_path / 'x.json').read_text())
  assert [(row['param'], row['kind']) for row in content['rows']] == turns[:9]
  assert turns == 3 * turns[:9] and len(set(turns)) == 9  # the first round is untimed
  assert content['rows'][0]['rounds'] == [10.0, 19.0]


def test_ratio_of_agent_steps():
  rows = [
    {'param': 'wn', 'kind': kind, 'rounds': rounds, 'seconds': float(np.median(rounds)),
     'count': 240, 'peak_memory_gb': 1.0}
    for kind, rounds in (('ours', [1.0, 2.0, 2.0]), ('single environment', [2.0, 4.0, 3.0]))
  ]  # fmt: skip
  ours, single = dqn.table(rows).splitlines()[2:]
  assert '| wn | agent steps: ours | 120 | 8.33 | 4.17–8.33 | 1.00 (1.00–1.00) |' in ours
  assert '| 80 | 12.50 | 8.33–16.67 | 2.00 (1.50–2.00) |' in single


def test_the_loop_that_ours_is_measured_against_has_the_same_ratio():
  config = dqn_configs.get_config('breakout-plain,tiny')
  agent = SingleEnvironment(config_dict.FrozenConfigDict(config), JaxAgent)
  for count in range(1, 121):
    agent.step()
    assert (agent.steps, agent.updates) == (count, max(0, count - 80) // 4)


def test_port_of_the_agent():
  pytest.importorskip('torch')
  config = config_dict.FrozenConfigDict(dqn_configs.get_config('breakout-plain,tiny'))
  agent = SingleEnvironment(config, TorchAgent)
  for _ in range(90):
    agent.step()
  assert agent.updates == 2
