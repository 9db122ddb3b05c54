"""CIFAR-10 classification (Salimans & Kingma 2016, §5.1)."""
