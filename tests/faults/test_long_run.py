"""Memory and open files stay flat over 20,000 steps with rows, checkpoints and evaluations."""

import numpy as np
import psutil
import pytest

MEGABYTE = 2**20


@pytest.mark.long
def test_memory_and_files_stay_flat(run, request, figures):
  steps = request.config.getoption('steps')
  process = psutil.Process()
  samples = []  # step, resident memory in MB, open descriptors, threads

  def evaluate(state):
    memory = process.memory_info().rss / MEGABYTE
    samples.append((int(state.step), round(memory, 1), process.num_fds(), process.num_threads()))
    return {'test/error': 1 / int(state.step)}

  run(
    evaluate=evaluate,
    order=lambda epoch: np.zeros((100, 2)),
    steps_per_epoch=100,
    epochs=steps // 100,
    log_every=10,
    checkpoint_every=40,
  )
  figures(
    'long-run',
    {'columns': ['step', 'resident MB', 'open descriptors', 'threads'], 'rows': samples},
  )
  late = np.array(samples)[len(samples) // 4 :]  # the first quarter may fill caches
  more = lambda column: np.polyfit(late[:, 0], late[:, column], 1)[0]  # a step
  # Of each of 600 checkpoints in 20,000 steps orbax keeps some 20 KB; all else is flat.
  assert 20_000 * more(1) < 30, f'{20_000 * more(1):.1f} MB more'
  assert steps * more(2) < 4 and late[:, 2].max() < late[:, 2].min() + 10
  assert (
    steps * more(3) < 4 and late[:, 3].max() < late[:, 3].min() + 20
  )  # orbax has pools of threads
  assert run.checkpoints == [steps - 40, steps]
