"""The steps of the generative models, ours and their ports to PyTorch."""

import importlib

import pytest

from experiments.training.state import num_params
from scripts.benchmark import stepper
from scripts.benchmark.worker import Row


@pytest.mark.parametrize('name', ['vae', 'draw'])
def test_our_step_of_a_generative_model(name):
  build = importlib.import_module(f'scripts.benchmark.{name}_step').build
  steps_ = build(Row('jax', 'wn', 'float32', 'direct', name, batch=2))
  steps_.take()
  steps_.wait()


@pytest.mark.parametrize('name', ['cifar', 'vae', 'draw'])
def test_port_has_as_many_parameters_and_takes_a_step(name, monkeypatch):
  optimizer_lib = pytest.importorskip('torch.optim.optimizer')
  optimizers = []
  build = importlib.import_module(f'scripts.benchmark.{name}_step').build
  hook = optimizer_lib.register_optimizer_step_post_hook(
    lambda optimizer, *_: optimizers.append(optimizer)
  )
  port = build(Row('torch', 'plain', 'float32', 'eager', name, width=4, batch=2))
  port.take()
  port.wait()
  hook.remove()
  states = []
  monkeypatch.setattr(stepper, 'of_jax', lambda step, state, arguments: states.append(state))
  build(Row('jax', 'plain', 'float32', 'direct', name, width=4, batch=2))
  count = sum(p.numel() for group in optimizers[0].param_groups for p in group['params'])
  assert count == num_params(states[0].params)
