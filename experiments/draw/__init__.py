"""DRAW, a recurrent variational autoencoder with attention (Salimans & Kingma 2016, §5.3)."""
