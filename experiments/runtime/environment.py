"""What has to be set before JAX starts: XLA's flags, its compilation cache, and huge pages.

`prepare` is the one place that sets them, all through environment variables, and never over a value
that the user set. It must run before JAX is imported, so this file must not import it. What each
brings is measured in docs/PERFORMANCE.md.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import filelock
import platformdirs

# XLA:CPU by default hands convolutions to its YNN library, whose weight gradient is slow
# (jaxlib 0.10). Its matrix products are fast where the minibatch is small, and slow where it is
# large. The flag has no effect on a GPU or TPU.
CPU_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CPU_FLAG_VALUE = 'LIBRARY_FUSION_TYPE_REDUCE'
_CPU_FLAG_PRODUCTS = ',LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
_JAXLIB_WITH_FLAG = '0.10.'  # an XLA that does not know a flag refuses to start

_CACHE_BYTES = 2 * 2**30  # the programs that were not used for longest go first
_TRANSPARENT_HUGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def prepare(*, ynn_products: bool = False) -> None:
  """Sets all of it; starts the program anew where huge pages need that.

  Args:
    ynn_products: see `set_xla_flags`.
  """
  set_xla_flags(ynn_products=ynn_products)
  set_compilation_cache()
  use_huge_pages()


def set_xla_flags(*, ynn_products: bool = False) -> None:
  """Sets the XLA flags for CPUs, for the version of jaxlib that they were measured with.

  Args:
    ynn_products: leave matrix products to XLA's YNN library: for minibatches of some ten examples.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  jaxlib = importlib.metadata.version('jaxlib')
  if CPU_FLAG not in flags and jaxlib.startswith(_JAXLIB_WITH_FLAG):
    value = _CPU_FLAG_VALUE + (_CPU_FLAG_PRODUCTS if ynn_products else '')
    os.environ['XLA_FLAGS'] = f'{flags} {CPU_FLAG}={value}'.strip()


def set_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache directory, so that the next start is quick.

  One folder for each kind of processor: a home directory may be shared by machines of a cluster.
  """
  folder = platformdirs.user_cache_path('weightnorm') / 'compiled' / _processor()
  if os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder)) == str(folder):
    remove_unfinished_programs(folder)
  os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(_CACHE_BYTES))
  # A start compiles many small programs; the default keeps only what took a second.
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')


def remove_unfinished_programs(folder: Path) -> None:
  """Removes the compiled programs that lack their time of use.

  A process that was killed while it kept one, or found the disk full, leaves such a program behind.
  It may be cut off, and JAX (0.10) then keeps no further program in the folder and warns each time.
  """
  if not folder.is_dir():
    return
  # JAX's own lock: another process may be between program and time. Best effort, as the folder is.
  with contextlib.suppress(OSError), filelock.FileLock(folder / '.lockfile', timeout=10):
    for program in folder.glob('*-cache'):
      if not program.with_name(program.name.removesuffix('cache') + 'atime').exists():
        program.unlink()


def use_huge_pages() -> None:
  """Has glibc ask for huge pages: a step on a CPU allocates hundreds of MB anew each time.

  glibc reads the setting when a program starts, so this runs the same command once more, in the
  same process. Without effect where the kernel gives huge pages to all or to none.
  """
  if 'GLIBC_TUNABLES' in os.environ or not _huge_pages_on_request():
    return
  os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _huge_pages_on_request() -> bool:
  library, version = platform.libc_ver()
  if library != 'glibc' or tuple(map(int, version.split('.')[:2])) < (2, 35):
    return False
  try:
    return '[madvise]' in _TRANSPARENT_HUGE_PAGES.read_text()
  except OSError:
    return False


def _processor() -> str:
  """Eight hexadecimal digits, different for processors with different instructions."""
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    instructions = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
  except OSError:
    instructions = ''
  return hashlib.sha256(f'{platform.machine()} {instructions}'.encode()).hexdigest()[:8]
