"""The experiments of Salimans & Kingma (2016), one package each; `training` is shared."""
