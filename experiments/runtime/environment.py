"""Environment variables for XLA's flags, the compilation cache and huge pages.

They must be set before JAX is imported, so this file must not import it. Values set by the user
stay. docs/PERFORMANCE.md has the gain of each.
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

# By default XLA:CPU uses its YNN library for convolutions, whose weight gradient is slow (jaxlib
# 0.10 and 0.11). YNN's matrix products are fast for small minibatches and slow for large ones. The
# flag has no effect on a GPU or TPU.
CPU_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CPU_FLAG_VALUE = 'LIBRARY_FUSION_TYPE_REDUCE'
_CPU_FLAG_PRODUCTS = ',LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
_JAXLIB_WITH_FLAG = ('0.10.', '0.11.')  # XLA does not start with a flag that it does not know

_CACHE_BYTES = 2 * 2**30  # beyond this, the least recently used programs are deleted
_TRANSPARENT_HUGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def prepare(*, ynn_products: bool = False) -> None:
  """Sets all of them; restarts the program where huge pages need that."""
  set_xla_flags(ynn_products=ynn_products)
  set_compilation_cache()
  use_huge_pages()


def set_xla_flags(*, ynn_products: bool = False) -> None:
  """Sets XLA's flag for CPUs, for the jaxlib versions that it was measured with.

  Args:
    ynn_products: use YNN for matrix products: faster in deep Q-learning and DRAW.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  jaxlib = importlib.metadata.version('jaxlib')
  if CPU_FLAG not in flags and jaxlib.startswith(_JAXLIB_WITH_FLAG):
    value = _CPU_FLAG_VALUE + (_CPU_FLAG_PRODUCTS if ynn_products else '')
    os.environ['XLA_FLAGS'] = f'{flags} {CPU_FLAG}={value}'.strip()


def set_compilation_cache() -> None:
  """Caches compiled programs in the user's cache directory, with a folder per kind of processor.

  Machines of a cluster may share a home directory.
  """
  folder = platformdirs.user_cache_path('weightnorm') / 'compiled' / _processor()
  if os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder)) == str(folder):
    remove_unfinished_programs(folder)
  os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(_CACHE_BYTES))
  # A start compiles hundreds of small programs; by default only those above a second are cached.
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')


def remove_unfinished_programs(folder: Path) -> None:
  """Removes cached programs that lack their file with the time of use.

  A process that is killed while it writes one, or finds the disk full, leaves it behind. With it in
  the folder, JAX 0.10 caches no more programs and always warns.
  """
  if not folder.is_dir():
    return
  # JAX's own lock, as another process may be about to write the time. Best effort, like the cache.
  with contextlib.suppress(OSError), filelock.FileLock(folder / '.lockfile', timeout=10):
    for program in folder.glob('*-cache'):
      if not program.with_name(program.name.removesuffix('cache') + 'atime').exists():
        program.unlink()


def use_huge_pages() -> None:
  """Makes glibc request huge pages, as every step on a CPU allocates hundreds of MB.

  glibc reads the setting at the start, so this restarts the command in the same process. Does
  nothing where the kernel gives huge pages to all or to none.
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
  """Eight hexadecimal digits that identify the instruction set of the processor."""
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    instructions = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
  except OSError:
    instructions = ''
  return hashlib.sha256(f'{platform.machine()} {instructions}'.encode()).hexdigest()[:8]
