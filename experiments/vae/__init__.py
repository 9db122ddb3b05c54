"""Variational autoencoders (Salimans & Kingma 2016, §5.2)."""
