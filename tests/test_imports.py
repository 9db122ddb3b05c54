"""Imports point one way: scripts → experiments/X → training → runtime, and all → wn, configs."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {'wn', 'configs', 'experiments', 'scripts', 'tests'}
MAY_IMPORT = {
  'wn': {'wn'},
  'configs': {'configs'},
  'experiments': {'experiments', 'wn', 'configs'},
  'scripts': {'scripts', 'experiments', 'configs', 'wn'},
}

MAY_VISIT = {'training': {'training', 'runtime'}, 'runtime': {'runtime'}}


def imported_modules(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def files(package):
  found = sorted((ROOT / package).rglob('*.py'))
  assert found
  return found


@pytest.mark.parametrize('package', MAY_IMPORT)
def test_packages_import_only_what_lies_below_them(package):
  for path in files(package):
    ours = {name.split('.')[0] for name in imported_modules(path)} & OURS
    assert ours <= MAY_IMPORT[package], path


@pytest.mark.parametrize(
  'package, allowed',
  [
    ('wn', {'wn', 'jax', 'flax', 'numpy'}),  # numpy comes with jax
    ('configs', {'configs', 'ml_collections'}),
  ],
)
def test_packages_need_only_these_libraries(package, allowed):
  for path in files(package):
    roots = {name.split('.')[0] for name in imported_modules(path)}
    assert roots - sys.stdlib_module_names <= allowed, path


def test_rooms_of_the_experiments_import_only_what_lies_below_them():
  rooms = {p.name for p in (ROOT / 'experiments').iterdir() if (p / '__init__.py').exists()}
  for room in rooms:
    for path in files(f'experiments/{room}'):
      visited = {
        name.split('.')[1]
        for name in imported_modules(path)
        if name.startswith('experiments.') and name.split('.')[1] in rooms
      }
      assert visited <= MAY_VISIT.get(room, {room, 'training', 'runtime'}), path
