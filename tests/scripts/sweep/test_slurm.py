"""A sweep on a real Slurm cluster of one node, one trial of which is preempted."""

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ml_collections import config_dict

from experiments.cifar.train import train
from experiments.runtime.metrics import read_rows
from scripts.sweep import trials

ROOT = Path(__file__).parents[3]
PROGRAMS = ('slurmctld', 'slurmd', 'munged', 'sbatch', 'srun', 'squeue', 'scontrol')

# Trials run in `low`; a job in `high` takes the node from them, and they are queued again.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=1 State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


@pytest.fixture
def cluster(install, tmp_path_factory, monkeypatch):
  """Starts munge and a Slurm cluster on loopback; yields the environment that leads to it."""
  if os.geteuid():
    pytest.skip('only root can start a cluster here')
  monkeypatch.setenv('PATH', f'{os.environ["PATH"]}:/usr/local/sbin:/usr/sbin')  # as after `su`
  install(PROGRAMS, ['slurm-wlm', 'munge'])
  directory = tmp_path_factory.mktemp('slurm')
  directory.chmod(0o755)
  for name in ('state', 'spool'):
    (directory / name).mkdir()
  host = socket.gethostname().split('.')[0]
  conf = directory / 'slurm.conf'
  conf.write_text(
    SLURM_CONF.format(
      host=host, directory=directory, cores=os.cpu_count(),
      controller_port=free_port(), node_port=free_port(),
    )
  )  # fmt: skip
  key = directory / 'munge.key'
  key.write_bytes(os.urandom(128))
  key.chmod(0o400)
  monkeypatch.setenv('SLURM_CONF', str(conf))
  munged = ['munged', '--foreground', '--force', f'--key-file={key}']
  munged += [f'--{name}-file={directory}/munge.{name}' for name in ('pid', 'log', 'seed')]
  commands = [
    [*munged, f'--socket={directory}/munge.socket'],
    ['slurmctld', '-D', '-c', '-f', str(conf)],
    ['slurmd', '-D', '-N', host, '-f', str(conf)],
  ]
  with contextlib.ExitStack() as stack:
    for command in commands:
      log = stack.enter_context((directory / f'{command[0]}.out').open('w'))
      process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
      stack.callback(process.wait)
      stack.callback(process.terminate)
      if command[0] == 'munged':
        wait_for(lambda: (directory / 'munge.socket').exists(), 30)
    idle = lambda: 'idle' in slurm('sinfo', '--noheader', '--format=%T', check=False)
    try:
      wait_for(idle, 60)
    except AssertionError:
      logs = [path.read_text()[-2000:] for path in directory.glob('*.log')]
      raise AssertionError('\n'.join(['the cluster did not start', *logs])) from None
    yield directory


def slurm(*command, check=True):
  result = subprocess.run(command, capture_output=True, text=True, check=check)
  return result.stdout


def has_checkpoint(trial):
  folder = trial.workdir / 'checkpoints'
  return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def process_of(trial):
  for process in psutil.process_iter(['cmdline']):
    if str(trial.workdir) in (process.info['cmdline'] or ()):
      return process
  raise AssertionError(f'{trial.name} does not run')


def wait_for(condition, seconds):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'it takes too long'
    time.sleep(0.05)


def test_a_preempted_trial_goes_on_and_all_results_are_right(cluster, config_file, tmp_path):
  runs = tmp_path / 'runs'
  command = [sys.executable, '-m', 'scripts.sweep', f'{config_file}:slurm', '--runs', str(runs)]
  command += ['--executor', 'slurm', '--partition', 'low', '--cpus', '1', '--jobs', '1']
  _, found = trials.load(f'{config_file}:slurm', runs)
  first, _ = found
  sweep = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  try:
    wait_for(lambda: sweep.poll() is not None or has_checkpoint(first), 600)
    process_of(first).suspend()  # until Slurm wakes it with SIGCONT, just before its SIGTERM
    wrap = ['--partition=high', '--exclusive', '--wrap=true', '--output=/dev/null']
    high = slurm('sbatch', '--parsable', *wrap)
    output, error = sweep.communicate(timeout=600)
  finally:
    sweep.kill()
    slurm('scancel', '--user', pwd.getpwuid(os.geteuid()).pw_name, check=False)
  assert sweep.returncode == 0, output + error
  assert '2 of 2 trials are finished' in output
  assert 'COMPLETED' in slurm('scontrol', 'show', 'job', high.strip())
  numbers = json.loads((runs / 'cifar' / 'slurm' / 'submitit' / 'jobs.json').read_text())
  job = slurm('scontrol', 'show', 'job', numbers[first.name])
  assert int(job.split('Restarts=')[1].split()[0]) >= 1
  assert 'resuming at step' in first.log.read_text()
  for trial in found:  # as if each had been run here, alone and in one go
    alone = tmp_path / 'alone' / trial.name
    train(config_dict.FrozenConfigDict(trial.config), alone)
    expected, result = (
      [{k: v for k, v in row.items() if k != 'seconds'} for row in read_rows(d / 'metrics.jsonl')]
      for d in (alone, trial.workdir)
    )
    assert result == expected
