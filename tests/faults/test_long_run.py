"""Memory and open files stay flat over 20,000 steps with rows, checkpoints and evaluations."""

import numpy as np
import psutil
import pytest

MEGABYTE = 2**20


@pytest.mark.long
def test_memory_and_files_stay_flat(run, request, figures):
  steps = request.config.getoption('steps')
  process = psutil.Process()
  samples = []  # step, resident memory in MB, open files, threads

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
  figures('long-run', {'columns': ['step', 'resident MB', 'files', 'threads'], 'samples': samples})
  table = np.array(samples)
  late = table[len(table) // 4 :]  # the first quarter may fill caches
  slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]
  assert slope * 20_000 < 30, f'{slope * 20_000:.1f} MB more after 20,000 steps'
  assert np.ptp(late[:, 2]) <= 5 and late[-1, 2] <= late[0, 2] + 2
  assert np.ptp(late[:, 3]) <= 5
  assert run.checkpoints == [steps - 100, steps]
