"""A simple loop of deep Q-learning, as the baseline for ours.

It is written as CleanRL's scripts are: one environment, an action for each step in a separate call,
whole observations in the replay memory, an update after every `update_period` steps, whose loss is
read at once. The environment is ALE's own, which is faster than gymnasium's wrappers. Only for
timing: ε is constant, there is no data-dependent initialization, and the truncation of games is
ignored.
"""

import functools
from typing import NamedTuple, Protocol

import numpy as np
from ml_collections import config_dict

from experiments.dqn import environments
from scripts.benchmark import stepper


class Transitions(NamedTuple):
  """A minibatch: observations uint8 [B, 4, 84, 84] before and after; the others [B]."""

  s_tm1: np.ndarray
  s_t: np.ndarray
  a_tm1: np.ndarray
  r_t: np.ndarray
  discount_t: np.ndarray


class Agent(Protocol):
  """What acts and learns."""

  def act(self, observations: np.ndarray) -> np.ndarray:
    """ε-greedy actions [B]."""

  def copy_to_target(self) -> None:
    """Copies the network to the target network."""

  def learn(self, batch: Transitions) -> float:
    """Makes an update; returns the loss."""


class SingleEnvironment:
  """The loop: one game, in which `agent` acts and learns in turns."""

  def __init__(self, config: config_dict.FrozenConfigDict, make_agent: type[Agent]):
    self.config = config
    self.steps = self.updates = 0
    self._env = environments.make(config.variant.game, **{**config.env, 'num_envs': 1})
    self._observation, info = self._env.reset(seed=np.array([config.seed]))
    self._lives = info['lives'][0]
    self.agent = make_agent(config, int(self._env.single_action_space.n))
    self._rng = np.random.default_rng(config.seed)
    capacity = config.replay.capacity
    self._observations = np.zeros((capacity, 2, 4, 84, 84), np.uint8)  # s_tm1, s_t
    self._actions = np.zeros(capacity, np.int32)
    self._rewards = np.zeros(capacity, np.float32)
    self._discounts = np.zeros(capacity, np.float32)

  def step(self) -> None:
    """Takes one agent step, and makes an update after every `update_period` steps."""
    config = self.config
    action = self.agent.act(self._observation)
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
      self.learn()

  def learn(self) -> None:
    """Makes an update."""
    if self.updates % self.config.learning.target_period == 0:
      self.agent.copy_to_target()
    size = self.config.replay.batch_size
    places = self._rng.integers(min(self.steps, len(self._actions)), size=size)
    s_tm1, s_t = self._observations[places].swapaxes(0, 1)
    arrays = (values[places] for values in (self._actions, self._rewards, self._discounts))
    self.agent.learn(Transitions(s_tm1, s_t, *arrays))
    self.updates += 1


class JaxAgent:
  """Network, action and update of `experiments.dqn`."""

  def __init__(self, config: config_dict.FrozenConfigDict, num_actions: int):
    import jax

    from experiments.dqn import agent

    self._epsilon = config.exploration.end
    self._split = jax.random.split
    self._key = jax.random.key(config.seed)
    network = agent.create_network(config, num_actions, self._key)
    graphdef, self._state = agent.create(config, network)
    self._copy_to_target = agent.copy_to_target
    self._batch = agent.Batch
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

  def act(self, observations: np.ndarray) -> np.ndarray:
    """As in `Agent`."""
    self._key, key = self._split(self._key)
    return np.asarray(self._act(self._state.train.params, key, observations, self._epsilon))

  def copy_to_target(self) -> None:
    """As in `Agent`."""
    self._state = self._copy_to_target(self._state)

  def learn(self, batch: Transitions) -> float:
    """As in `Agent`."""
    frames = np.concatenate([batch.s_tm1, batch.s_t[:, -1:]], axis=1)
    ages = np.full((len(frames), 2), 3, np.uint8)  # frames before a game are already black
    self._state, metrics = self._learn(self._state, self._batch(frames, ages, *batch[2:]))
    return float(metrics['loss'])


class TorchAgent:
  """The same, unnormalized, in PyTorch."""

  def __init__(self, config: config_dict.FrozenConfigDict, num_actions: int):
    import torch
    from torch import nn

    def network() -> nn.Module:
      (a, b, c), hidden = config.model.features, config.model.hidden
      convs = [nn.Conv2d(4, a, 8, 4), nn.ReLU(), nn.Conv2d(a, b, 4, 2), nn.ReLU()]
      convs += [nn.Conv2d(b, c, 3), nn.ReLU(), nn.Flatten()]
      dense = [nn.Linear(49 * c, hidden), nn.ReLU(), nn.Linear(hidden, num_actions)]
      return nn.Sequential(*convs, *dense).to(self._device, memory_format=torch.channels_last)

    self._torch = torch
    self._device = stepper.torch_device()
    self._net, self._target = network(), network()
    values = config.optimizer
    self._optimizer = torch.optim.Adamax(
      self._net.parameters(), values.learning_rate, (values.b1, values.b2), foreach=True
    )
    self._epsilon, self._discount = config.exploration.end, config.learning.discount
    self._num_actions = num_actions
    self._rng = np.random.default_rng(config.seed)

  def act(self, observations: np.ndarray) -> np.ndarray:
    """As in `Agent`."""
    if self._rng.random() < self._epsilon:
      return self._rng.integers(self._num_actions, size=len(observations))
    with self._torch.no_grad():
      return self._net(self._pixels(observations)).argmax(1).cpu().numpy()

  def copy_to_target(self) -> None:
    """As in `Agent`."""
    self._target.load_state_dict(self._net.state_dict())

  def learn(self, batch: Transitions) -> float:
    """As in `Agent`."""
    torch = self._torch
    arrays = (torch.from_numpy(array).to(self._device) for array in batch[2:])
    a_tm1, r_t, discount_t = arrays
    with torch.no_grad():
      q_t = self._target(self._pixels(batch.s_t)).amax(1)
      targets = r_t + self._discount * discount_t * q_t
    q_tm1 = self._net(self._pixels(batch.s_tm1)).gather(1, a_tm1.long()[:, None])[:, 0]
    loss = torch.nn.functional.huber_loss(q_tm1, targets)
    self._optimizer.zero_grad()
    loss.backward()
    self._optimizer.step()
    return loss.item()

  def _pixels(self, observations: np.ndarray):
    pixels = self._torch.from_numpy(observations).to(self._device)
    # A fourth of the bytes to rearrange before the conversion.
    return pixels.contiguous(memory_format=self._torch.channels_last).float().div_(255)
