"""A simple loop of deep Q-learning, as the baseline for ours.

It has one environment, chooses every action in a separate call, stores whole observations in the
replay memory, and makes an update after every `update_period` steps, whose loss it reads at once.
Network, action and update are those of `experiments.dqn`. Only for timing: ε is constant, there is
no data-dependent initialization, and the truncation of games is ignored.
"""

import functools

import jax
import numpy as np
from ml_collections import config_dict

from experiments.dqn import agent, environments
from experiments.dqn.agent import Batch


class SingleEnvironment:
  """An agent that acts and learns in turns in one game."""

  def __init__(self, config: config_dict.FrozenConfigDict):
    self.config = config
    self.steps = self.updates = 0
    self._env = environments.make(config.variant.game, **{**config.env, 'num_envs': 1})
    self._observation, info = self._env.reset(seed=np.array([config.seed]))
    self._lives = info['lives'][0]
    self._key = jax.random.key(config.seed)
    num_actions = int(self._env.single_action_space.n)
    network = agent.create_network(config, num_actions, self._key)
    graphdef, self._state = agent.create(config, network)
    self._act = jax.jit(functools.partial(agent.act, graphdef=graphdef))
    self._learn = jax.jit(
      functools.partial(
        agent.learn,
        graphdef=graphdef,
        optimizer=agent.create_optimizer(config),
        discount=config.learning.discount,
      ),
      donate_argnums=0,
    )
    self._rng = np.random.default_rng(config.seed)
    capacity = config.replay.capacity
    self._observations = np.zeros((capacity, 2, 4, 84, 84), np.uint8)  # s_tm1, s_t
    self._actions = np.zeros(capacity, np.int32)
    self._rewards = np.zeros(capacity, np.float32)
    self._discounts = np.zeros(capacity, np.float32)

  def step(self) -> None:
    """Takes one agent step, and makes an update after every `update_period` steps."""
    config = self.config
    self._key, key = jax.random.split(self._key)
    epsilon = config.exploration.end
    action = np.asarray(self._act(self._state.train.params, key, self._observation, epsilon))
    before = self._observation
    self._observation, reward, terminated, _, info = self._env.step(action)
    terminal = terminated[0] or info['lives'][0] < self._lives
    self._lives = info['lives'][0]
    place = self.steps % len(self._actions)
    self._observations[place] = before[0], self._observation[0]
    self._actions[place] = action[0]
    self._rewards[place] = np.clip(reward[0], -1, 1)
    self._discounts[place] = not terminal
    self.steps += 1
    is_due = self.steps % config.learning.update_period == 0
    if is_due and self.steps > config.replay.learning_starts:
      if self.updates % config.learning.target_period == 0:
        self._state = agent.copy_to_target(self._state)
      self._state, metrics = self._learn(self._state, self._sample())
      self.updates += 1
      float(metrics['loss'])

  def _sample(self) -> Batch:
    size = self.config.replay.batch_size
    places = self._rng.integers(min(self.steps, len(self._actions)), size=size)
    s_tm1, s_t = self._observations[places].swapaxes(0, 1)
    return Batch(
      frames=np.concatenate([s_tm1, s_t[:, -1:]], axis=1),
      ages=np.full((size, 2), 3, np.uint8),  # frames before a game are already black
      a_tm1=self._actions[places],
      r_t=self._rewards[places],
      discount_t=self._discounts[places],
    )
