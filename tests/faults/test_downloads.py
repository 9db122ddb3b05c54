"""Downloads that fail: one line, and nothing is left that looks whole.

A server on this machine sends tiny data sets.
"""

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from experiments import download
from experiments.runtime import published
from experiments.runtime.errors import UserError
from experiments.training import data
from tests import archives

ROOT = Path(__file__).parents[2]
NAMES = ('cifar10', 'mnist')


class Server(http.server.ThreadingHTTPServer):
  """Sends `files`, path → content.

  Attributes:
    fault: what it does wrong: None; 'missing', it has no files; 'cut', it sends half a file;
      'hang', half, and then nothing until `go_on` is set; 'silent', nothing until then.
    sent: paths of what was asked for, and half of it at least sent.
    url: of its root.
  """

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.files, self.fault, self.sent = {}, None, []
    self.go_on = threading.Event()
    self.url = f'http://127.0.0.1:{self.server_port}/'

  def handle_error(self, *_):
    pass


class Handler(http.server.BaseHTTPRequestHandler):
  def do_HEAD(self):
    if self.server.fault == 'silent':
      self.server.go_on.wait()
    content = self.server.files.get(self.path)
    self.send_response(404 if content is None or self.server.fault == 'missing' else 200)
    self.send_header('Content-Length', len(content or b''))
    self.end_headers()
    return content

  def do_GET(self):
    content = self.do_HEAD()
    half = len(content) // 2
    self.wfile.write(content[:half])
    self.server.sent.append(self.path)
    if self.server.fault == 'cut':
      return
    if self.server.fault == 'hang':
      self.server.go_on.wait()
    self.wfile.write(content[half:])

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving():
  server = Server()
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
  thread.start()
  try:
    yield server
  finally:
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(monkeypatch):
  """A server of the tiny data sets, at the address that a download uses."""
  monkeypatch.setenv('no_proxy', '*')
  with serving() as server:
    archives.publish_tiny(monkeypatch, server.url)
    server.files = {f'/{file}': c for name in NAMES for file, c in archives.tiny(name).items()}
    yield server


def is_whole(name, data_dir):
  """Whether a data set is there; nothing but it and the lock may be."""
  folder = data_dir / name
  files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  files -= {'.download.lock'}
  if files:
    assert files == set(published.SOURCES[name].archives)
    assert data.load(name, data_dir).description['published'] == {'train': True, 'test': True}
  return bool(files)


def refused(message, *args):
  with pytest.raises(UserError) as error:
    download.download(*args)
  assert message in str(error.value) and '\n' not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('name', NAMES)
def test_a_data_set_is_downloaded_once(name, server, tmp_path, capsys):
  for _ in range(2):
    download.download(name, tmp_path / 'new' / 'data')
    assert f'{name} is in {tmp_path}/new/data/{name}' in capsys.readouterr().out
    assert is_whole(name, tmp_path / 'new' / 'data')
    assert len(server.sent) == {'cifar10': 1, 'mnist': 4}[name]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
  'fault, message',
  [
    ('cut', 'IncompleteRead'),
    ('missing', '404 Client Error: Not Found'),
    ('corrupt', ': not the published file'),
    ('other images', ': not the published file'),
    ('a page', ': not the published file'),
  ],
)
def test_what_does_not_come_whole_is_not_kept(fault, message, name, server, tmp_path):
  file, content = list(archives.tiny(name).items())[-1]  # of MNIST the fourth
  whole = dict(server.files)
  server.fault = fault
  if fault == 'corrupt':
    server.files[f'/{file}'] = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
  elif fault == 'other images':
    server.files[f'/{file}'] = archives.tiny(name, seed=1)[file]
  elif fault == 'a page':
    server.files[f'/{file}'] = b'<html>Please log in</html>'
  line = refused(message, name, tmp_path)
  assert line.startswith('cannot download ') and 'rerun the same command, or give' in line
  assert not published.is_there(name, tmp_path / name)
  assert not (tmp_path / name / '.download').exists()
  with pytest.raises(UserError, match=f'{name} is not in {tmp_path}'):
    data.load(name, tmp_path)

  server.fault, server.files = None, whole
  download.download(name, tmp_path)
  assert is_whole(name, tmp_path)


def test_another_mirror_is_tried(server, tmp_path, monkeypatch):
  with serving() as other:
    closed = f'http://127.0.0.1:{closed_port()}/'
    archives.publish_tiny(monkeypatch, closed, other.url, server.url)
    download.download('mnist', tmp_path)
  assert is_whole('mnist', tmp_path) and not other.sent


def closed_port():
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('network', ['closed', 'silent', 'nameless', 'without nameserver'])
def test_no_network(network, name, server, tmp_path, monkeypatch):
  monkeypatch.setattr(download, '_SECONDS', 0.5)
  server.fault = network
  url = {
    'closed': f'http://127.0.0.1:{closed_port()}/',
    'silent': server.url,
    'nameless': 'http://no.such.server.invalid/',
    'without nameserver': 'http://somewhere.invalid/',
  }[network]
  if network == 'without nameserver':  # the C library's search for one knows no limit
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: server.go_on.wait() and [])
  archives.publish_tiny(monkeypatch, url, url)
  start = time.monotonic()
  line = refused('cannot reach ', name, tmp_path)
  assert time.monotonic() - start < 5
  assert line.endswith(f'python -m experiments.download {name} --archive FILE [FILE ...]')
  assert not list(tmp_path.iterdir())


def test_a_server_has_ten_seconds():
  """For each of the two things that it is asked at the start: less than twenty in all."""
  assert download._SECONDS < 20


def test_full_disk(server, disk):
  path, _ = disk
  filler = path / 'filler'
  (path / 'cifar10').mkdir()
  filler.write_bytes(b'\0' * (shutil.disk_usage(path).free - 20_000))
  refused('(No space left on device)', 'cifar10', path)
  refused('(No space left on device)', 'cifar10', path, [given(path.parent, 'cifar10')])
  assert not is_whole('cifar10', path)
  filler.unlink()
  download.download('cifar10', path)
  assert is_whole('cifar10', path)


def test_read_only_disk(server, disk):
  path, remount = disk
  remount('ro')
  refused(f'no permission to write to {path}', 'cifar10', path)
  remount('rw')


@pytest.fixture
def open_to_all():
  """A folder that is not below one of root's."""
  folder = Path(tempfile.mkdtemp())
  folder.chmod(0o777)
  yield folder
  for path in folder.iterdir():
    path.chmod(0o755)  # who is not root deletes nothing in a folder without rights
  shutil.rmtree(folder)


@contextlib.contextmanager
def without_rights():
  """As a user who is not root."""
  if is_root := os.geteuid() == 0:
    os.seteuid(65534)
  try:
    yield
  finally:
    if is_root:
      os.seteuid(0)


def test_folders_without_permission(server, open_to_all):
  folder = open_to_all / 'mnist'
  folder.mkdir(mode=0o555)
  with without_rights():
    refused(f'no permission to write to {folder}', 'mnist', open_to_all)
  folder.chmod(0o755)
  archives.write(folder, archives.tiny('mnist'))
  with without_rights():  # all is there
    download.download('mnist', open_to_all)
    assert data.load('mnist', open_to_all).description['published']['train']
  images = folder / 'train-images-idx3-ubyte.gz'
  for path in (images, folder):
    path.chmod(0o000)
    with without_rights():
      with pytest.raises(UserError, match=rf'cannot read {images} \(Permission denied\); '):
        data.load('mnist', open_to_all)
      refused(f'cannot read or write {images} (Permission denied)', 'mnist', open_to_all)
      refused('(Permission denied)', 'cifar10', open_to_all, [images])
    path.chmod(0o755)


def test_a_folder_of_tensorflow_datasets_without_permission(open_to_all):
  folder = open_to_all / 'mnist'
  (folder / '3.0.1').mkdir(parents=True)
  (folder / '3.0.1' / 'dataset_info.json').touch()
  folder.chmod(0o311)  # its files could be read, but it cannot be looked for them
  with without_rights(), pytest.raises(UserError, match=rf'cannot read {folder} \(Permission'):
    data.load('mnist', open_to_all)


def test_two_downloads_at_once(server, tmp_path, capsys):
  server.fault = 'hang'
  threads = [threading.Thread(target=download.download, args=('cifar10', tmp_path)) for _ in '12']
  for thread in threads:
    thread.start()
  deadline = time.monotonic() + 10
  output = ''
  while 'waiting for it' not in output and time.monotonic() < deadline:
    output += capsys.readouterr().out
    time.sleep(0.01)
  assert f'another process is downloading to {tmp_path}/cifar10; waiting for it' in output
  server.go_on.set()
  for thread in threads:
    thread.join()
  assert is_whole('cifar10', tmp_path) and len(server.sent) == 1


KILLED = """
import sys
from experiments import download
from experiments.runtime import published
from tests import archives
published.SOURCES = archives.tiny_sources(sys.argv[1])
download.main.__globals__['_SECONDS'] = 60
download.download('cifar10', sys.argv[2])
"""


@pytest.mark.parametrize('signum', [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_is_killed_begins_anew(signum, server, tmp_path):
  server.fault = 'hang'
  command = [sys.executable, '-c', KILLED, server.url, tmp_path]
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
  while not server.sent and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signum)
  assert process.wait() == -signum
  assert (tmp_path / 'cifar10' / '.download').exists() == (signum == signal.SIGKILL)
  with pytest.raises(UserError, match='cifar10 is not in'):
    data.load('cifar10', tmp_path)
  server.fault = None
  download.download('cifar10', tmp_path)
  assert is_whole('cifar10', tmp_path)


def given(folder, name, seed=0):
  """A folder with the archives of a data set that the user has."""
  archives.write(folder / f'given-{name}', archives.tiny(name, seed))
  return folder / f'given-{name}'


@pytest.mark.parametrize('name', NAMES)
def test_archives_of_the_user(name, server, tmp_path, monkeypatch):
  server.fault = 'missing'
  folder = given(tmp_path, name)
  download.download(name, tmp_path / 'a', [folder])
  assert is_whole(name, tmp_path / 'a')
  # By content, not by name, and packed in another way.
  splits = {split: archives.random_split(name, split) for split in archives.COUNTS}
  packed = archives.pack(name, archives.files_of(name, splits), compresslevel=9)
  archives.write(tmp_path / 'other', {f'{i} (1)': c for i, c in enumerate(packed.values())})
  monkeypatch.chdir(tmp_path)
  download.download(name, 'b', [Path('other') / path.name for path in Path('other').iterdir()])
  assert is_whole(name, tmp_path / 'b')
  assert not server.sent


def test_archives_of_the_user_that_are_not_right(server, tmp_path):
  folder, other = given(tmp_path, 'mnist'), given(tmp_path / 'other', 'mnist', seed=1)
  cifar = given(tmp_path, 'cifar10') / archives.CIFAR
  labels = folder / 't10k-labels-idx1-ubyte.gz'
  for message, *paths in (
    ('there is no file ', tmp_path / 'nowhere'),
    (f'{other}/train-images-idx3-ubyte.gz is not as published (its train-images-idx3', other),
    (f'{cifar} is not as published (', cifar),
    (f'{labels.name} is not among the given archives', *set(folder.iterdir()) - {labels}),
  ):
    refused(message, 'mnist', tmp_path / 'data', paths)
    assert not (tmp_path / 'data').exists()
  empty = tmp_path / 'empty.tar.gz'
  subprocess.run(['tar', '-czf', empty, '-T', '/dev/null'], check=True)
  refused('is damaged: data_batch_1.bin is missing', 'cifar10', tmp_path / 'data', [empty])
  labels.write_bytes(labels.read_bytes()[:-9])
  refused(f'{labels} is not as published (it is damaged', 'mnist', tmp_path / 'data', [folder])


def test_an_archive_that_is_not_as_published_is_kept_aside(server, tmp_path, capsys):
  changed = archives.tiny('cifar10', seed=1)
  archives.write(tmp_path / 'cifar10', changed)
  download.download('cifar10', tmp_path)
  aside = tmp_path / 'cifar10' / f'{archives.CIFAR}.replaced'
  assert f'it is kept as {aside.name}' in capsys.readouterr().out
  assert aside.read_bytes() == changed[archives.CIFAR]
  aside.unlink()
  assert is_whole('cifar10', tmp_path)


def test_tfrecords_in_the_folder_do_not_matter(server, tmp_path):
  folder = tmp_path / 'mnist' / '3.0.1'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text('{"name": "mnist", "fileFormat": "tfrecord"}')
  with pytest.raises(UserError, match='which only TensorFlow reads; download the published files'):
    data.load('mnist', tmp_path)
  download.download('mnist', tmp_path)
  assert data.load('mnist', tmp_path).description['published']['train']
