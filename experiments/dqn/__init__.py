"""Deep Q-learning on Atari games (Salimans & Kingma 2016, §5.4)."""
