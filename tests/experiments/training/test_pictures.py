"""Pages of small images."""

import numpy as np
import pytest
from PIL import Image

from experiments.training import pictures


@pytest.mark.parametrize('channels', [1, 3])
def test_every_pixel_is_in_its_place(channels, tmp_path):
  images = np.random.default_rng(0).random((5, 4, 3, channels))
  pictures.save_grid(tmp_path / 'grid.png', images, columns=3, zoom=2, gap=1)
  page = np.asarray(Image.open(tmp_path / 'grid.png')).reshape(2 * 9, 3 * 7, channels)
  shown = 1 - images if channels == 1 else images
  expected = np.full(page.shape, 255)
  for i, image in enumerate(shown):
    top, left = 9 * (i // 3) + 1, 7 * (i % 3) + 1
    for y in range(8):
      for x in range(6):
        expected[top + y, left + x] = np.round(255 * image[y // 2, x // 2])
  np.testing.assert_array_equal(page, expected)


def test_values_out_of_range_are_cut_off(tmp_path):
  images = np.array([-1.0, 2.0]).reshape(2, 1, 1, 1)
  pictures.save_grid(tmp_path / 'grid.png', images, columns=2, zoom=1, gap=0)
  np.testing.assert_array_equal(Image.open(tmp_path / 'grid.png'), [[255, 0]])
