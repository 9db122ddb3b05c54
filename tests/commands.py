"""Runs `python -m MODULE` in the process of the tests."""

import logging
import runpy
import sys
import warnings

from absl import flags

from experiments.runtime import command_line


def run_here(module, arguments, monkeypatch, capfd, caplog):
  """The exit code of `python -m MODULE ARGUMENTS`, run in this process, and what is on stderr."""
  monkeypatch.setattr(sys, 'argv', [module, *arguments])
  monkeypatch.setattr(command_line.interrupts, 'install', lambda: None)  # signals are pytest's
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)  # Python's, of a config file, is not ours
  monkeypatch.setenv('GLIBC_TUNABLES', '')  # or the process would be replaced by a new one
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # the file of another test
  capfd.readouterr()
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', message=f"'{module}.* found in sys.modules")
    try:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
      code = 0
    except SystemExit as exit_:
      code = exit_.code or 0
  for flag in flags.FLAGS.flags_by_module_dict()[command_line.__name__]:
    flag.unparse()
  for name in [name for name in flags.FLAGS if name.startswith('config.')]:
    delattr(flags.FLAGS, name)
  assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
  return code, capfd.readouterr().err
