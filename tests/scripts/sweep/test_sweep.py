"""Sweeps from end to end on this machine, and everything that can be wrong with one."""

import dataclasses
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from configs import cifar, dqn, draw, vae
from experiments import results
from experiments.runtime import settings
from experiments.runtime.errors import UserError
from scripts.sweep import __main__ as sweep
from scripts.sweep import executors, trials
from scripts.sweep import job as job_lib
from scripts.sweep.display import Display

ROOT = Path(__file__).parents[3]


def run(*arguments):
  """The exit code of the command, run in this process."""
  with pytest.raises(SystemExit) as exit_:
    sweep.main(list(map(str, arguments)))
  return exit_.value.code


def finish_times(directory):
  return {p.parent.name: p.stat().st_mtime_ns for p in directory.glob('*/summary.json')}


def test_a_failed_trial_does_not_stop_the_others_and_resume_runs_just_that_one(
  config_file, tmp_path, capsys
):
  directory = tmp_path / 'runs' / 'cifar' / 'four'
  command = [f'{config_file}:four', '--runs', tmp_path / 'runs', '--jobs', 2, '--resume']
  victim = 'wn-tiny-seed=0-epochs=1'
  (directory / victim).mkdir(parents=True)
  with (directory / victim / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # as a process that trains in the directory does
    assert run(*command) == 1
  output = capsys.readouterr().out
  first = finish_times(directory)
  assert len(first) == 3 and victim not in first
  assert f'{victim} failed' in output and 'another process is training' in output
  assert '3 of 4 trials are finished' in output and '--resume' in output

  assert run(*command) == 0
  output = capsys.readouterr().out
  second = finish_times(directory)
  assert second.keys() - first.keys() == {victim}
  assert {name: second[name] for name in first} == first  # the others were not run again
  assert '4 of 4 trials are finished' in output
  for path in directory.glob('*/summary.json'):
    config = json.loads(path.read_text())['config']
    assert path.parent.name == f'{settings.variant(config)}-tiny-seed={config["seed"]}-epochs=1'
  assert run(*command) == 0
  assert 'all 4 trials are finished' in capsys.readouterr().out


def test_a_trial_that_diverges_is_reported_with_its_last_lines(config_file, tmp_path, capsys):
  assert run(f'{config_file}:bad', '--runs', tmp_path) == 1
  output = capsys.readouterr().out
  name = 'wn-tiny-seed=0-optimizer.learning_rate=1e+30-epochs=1'
  assert f'{name} failed' in output
  assert 'Lower the learning rate' in output and '1 of 2 trials are finished' in output
  runs, _ = results.find([tmp_path])  # what the report takes as diverged
  assert [bool(run.divergence) for run in runs] == [run.path.name == name for run in runs]
  capsys.readouterr()
  assert run(f'{config_file}:bad', '--runs', tmp_path) == 2
  assert 'has 2 of these 2 trials already, 1 of them finished; add --resume' in (
    capsys.readouterr().err
  )


def test_a_trial_that_crashes_at_import(tmp_path, capsys):
  path = tmp_path / 'broken.py'
  path.write_text(
    'from configs import cifar\n'
    'def get_config(spec):\n'
    '  config = cifar.get_config(spec)\n'
    "  config.experiment = 'broken'\n"
    '  return config\n'
    "SWEEPS = {'one': [('wn,tiny', {'seed': 0})]}\n"
  )
  assert run(f'{path}:one', '--runs', tmp_path / 'runs') == 1
  assert 'No module named experiments.broken' in capsys.readouterr().out


def wait_for_line(log):
  deadline = time.monotonic() + 60
  while not (log.exists() and log.read_text().endswith('\n')):
    assert time.monotonic() < deadline
    time.sleep(0.05)


def has_checkpoint(workdir):
  folder = workdir / 'checkpoints'
  return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


@pytest.mark.parametrize('signal_', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_its_trials_and_can_go_on(signal_, config_file, tmp_path):
  # Tests that run in the background have SIGINT ignored, and with them what they start.
  command = ['env', '--default-signal=INT', sys.executable, '-m', 'scripts.sweep']
  command += [f'{config_file}:long', '--runs', str(tmp_path)]
  process = subprocess.Popen(
    command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  workdir = tmp_path / 'cifar' / 'long' / 'wn-tiny-seed=0-epochs=10000'
  deadline = time.monotonic() + 120
  while not has_checkpoint(workdir):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.2)
  process.send_signal(signal_)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert error == 'interrupted; rerun the same command with --resume to continue.\n'
  log = (workdir.parent / 'logs' / f'{workdir.name}.log').read_text().splitlines()
  assert re.fullmatch(
    r'stopped at step \d+ by SIGTERM; rerun the same command to resume\.', log[-1]
  )
  with (workdir / 'lock').open('w') as lock:  # nobody trains there any more
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  assert has_checkpoint(workdir)


# Takes SIGTERM as an experiment does, or not at all.
STOPPING = 'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))'
STUBBORN = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)'


@pytest.mark.parametrize('program, code', [(STOPPING, 143), (STUBBORN, -signal.SIGKILL)])
def test_a_job_that_is_queued_again_lets_its_command_write_a_checkpoint(
  program, code, config_file, tmp_path, monkeypatch
):
  monkeypatch.setattr(job_lib, '_SECONDS_TO_STOP', 10.0 if program is STOPPING else 0.2)
  _, (trial, *_) = trials.load(f'{config_file}:long', tmp_path)
  command = (sys.executable, '-c', f'{program}; print("ready", flush=True); time.sleep(99)')
  trial.log.parent.mkdir(parents=True)
  job = job_lib.Job(dataclasses.replace(trial, command=command))
  processes = []

  def requeue(*_):  # as submitit does, in a signal handler and while the job waits
    processes.append(job.process)
    assert job.checkpoint().function.process is None

  before = signal.signal(signal.SIGUSR2, requeue)
  watcher = threading.Thread(
    target=lambda: (wait_for_line(trial.log), os.kill(os.getpid(), signal.SIGUSR2))
  )
  try:
    watcher.start()
    with pytest.raises(RuntimeError, match=f'exit code {code}'):
      job()
  finally:
    signal.signal(signal.SIGUSR2, before)
    watcher.join()
  assert processes[0].returncode == code


def test_a_job_that_slurm_ends_waits_for_the_end(config_file, tmp_path, monkeypatch):
  waits = []
  monkeypatch.setattr(job_lib.time, 'sleep', waits.append)
  _, (trial, *_) = trials.load(f'{config_file}:long', tmp_path)
  trial.log.parent.mkdir(parents=True)
  for code, expected in ((143, [600.0]), (1, [])):
    command = (sys.executable, '-c', f'raise SystemExit({code})')
    job = job_lib.Job(dataclasses.replace(trial, command=command), patience=600.0)
    with pytest.raises(RuntimeError, match=f'exit code {code}'):
      job()
    assert waits == expected
    waits.clear()


def test_print_and_filter(config_file, tmp_path, capsys):
  assert run(f'{config_file}:eight', '--runs', tmp_path, '--executor', 'print') == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 8
  workdir = f'{tmp_path}/cifar/eight/plain-tiny-seed=0-epochs=1'
  assert lines[0].split(' -m ')[1] == (
    f'experiments.cifar --config {config_file}:plain,tiny --config.seed=0 --config.epochs=1 '
    f'--workdir {workdir}'
  )
  arguments = ['--filter', 'variant=wn,bn', '--filter', 'seed=1', '--data_dir', 'my data']
  run(f'{config_file}:eight', '--runs', tmp_path, '--executor', 'print', *arguments)
  lines = capsys.readouterr().out.splitlines()
  assert [re.search(r':(\w+),tiny', line).group(1) for line in lines] == ['wn', 'bn']
  assert all('--config.seed=1' in line and line.endswith("--data_dir 'my data'") for line in lines)
  assert not (tmp_path / 'cifar').exists()


@pytest.mark.parametrize(
  'filters, variants, rates',
  [
    (['learning_rate=0.003'], ['plain', 'wn_mean_bn'], ['0.003']),
    (['optimizer.learning_rate=0.003,0.001'], ['plain', 'wn_mean_bn'], ['0.001', '0.003']),
    (['variant=plain'], ['plain'], ['0.001', '0.003']),
    (['parameterization=plain', 'learning_rate=0.001'], ['plain'], ['0.001']),
    (['variant=wn_mean_bn', 'model.width=4', 'name=digits'], ['wn_mean_bn'], ['0.001', '0.003']),
  ],
)
def test_filters(filters, variants, rates, config_file, tmp_path):
  _, found = trials.load(f'{config_file}:rates', tmp_path)
  left = trials.select(found, filters)
  assert [trial.name for trial in left] == [
    f'{variant}-tiny-seed=0-optimizer.learning_rate={rate}'
    for variant in variants
    for rate in rates
  ]


@pytest.mark.parametrize(
  'filter_, message',
  [
    ('learning_rate', 'write KEY=VALUE or KEY=VALUE,VALUE'),
    ('optimiser.learning_rate=0.003', "the config has no key 'optimiser.learning_rate'"),
    ('optimizer=0.003', "the config has no key 'optimizer'"),
    ('variant=wn', 'no trial has variant=wn; it is one of plain, wn_mean_bn'),
    ('learning_rate=1', 'no trial has learning_rate=1; it is one of 0.001, 0.003'),
  ],
)
def test_bad_filters(filter_, message, config_file, tmp_path):
  _, found = trials.load(f'{config_file}:rates', tmp_path)
  with pytest.raises(UserError, match=re.escape(message)):
    trials.select(found, [filter_])


@pytest.mark.parametrize(
  'filters, variants',
  [
    (['binarize=anew'], {'mnist-iaf-plain', 'mnist-iaf-wn'}),
    (['dataset=mnist', 'latents=32'], {'mnist-iaf-plain', 'mnist-iaf-wn'}),
    (['h=160', 'parameterization=wn'], {'cifar10-iaf-wn'}),
  ],
)
def test_filters_by_keys_that_not_all_trials_have(filters, variants, tmp_path):
  _, found = trials.load(f'{ROOT}/configs/vae.py:figure3', tmp_path)
  left = trials.select(found, filters)
  assert {trials.values_of(trial)['variant'] for trial in left} == variants
  assert len(left) == 3 * len(variants)


def test_dry_run_shows_what_would_be_run_and_writes_nothing(config_file, tmp_path, capsys):
  done = tmp_path / 'cifar' / 'four' / 'plain-tiny-seed=0-epochs=1'
  _, (first, *_) = trials.load(f'{config_file}:four', tmp_path)
  done.mkdir(parents=True)
  (done / 'config.json').write_text(first.config.to_json())
  (done / 'summary.json').write_text(f'{{"config": {first.config.to_json()}}}')
  before = sorted(tmp_path.rglob('*'))
  assert run(f'{config_file}:four', '--runs', tmp_path, '--dry-run') == 0
  output = capsys.readouterr().out
  assert '3 of 4 trials would be run' in output
  assert output.count('finished') == 1 and output.count('would be run') == 4
  assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
  'module, name', [(m, name) for m in (cifar, vae, draw, dqn) for name in m.SWEEPS]
)
def test_the_sweeps_of_the_configs_can_be_run(module, name, tmp_path):
  experiment = module.__name__.split('.')[-1]
  directory, found = trials.load(f'{ROOT}/configs/{experiment}.py:{name}', tmp_path)
  assert directory == tmp_path / experiment / name
  for trial, (spec, overrides) in zip(found, module.SWEEPS[name], strict=True):
    values = trials.values_of(trial)
    assert values['variant'] == spec.split(',')[0] and overrides.keys() <= values.keys()
    assert {key: values[key] for key in overrides} == overrides
  if module is cifar:
    sizes = {'figure2': 60, 'scaled_rates': 20, 'tiny': 8}  # the others: 5 variants, 3 seeds
    assert len(found) == sizes.get(name, 15)


@pytest.mark.parametrize(
  'name, message',
  [
    ('fuor', "unknown sweep 'fuor'; choose one of .*Did you mean 'four'"),
    ('', "unknown sweep ''"),
    ('empty', 'has no trials'),
    ('no_seed', 'no_seed, trial 1: it must set a seed'),
    ('typo', "typo, trial 1: the config has no key 'optimizer.learning_rat'"),
    ('no_section', "no_section, trial 1: the config has no key 'optimiser.learning_rate'"),
    ('type', 'type, trial 1: '),
    ('spec', "spec, trial 1: unknown variant 'wm'"),
    ('twice', 'lists wn-tiny-seed=0 more than once'),
    ('same', 'wn-tiny-seed=0 and wn-tiny-seed=0-epochs=3 are the same run'),
    ('no_pair', r'no_pair, trial 1: write \(SPEC'),
    ('no_dict', r'no_dict, trial 1: write \(SPEC'),
  ],
)
def test_bad_sweeps(name, message, config_file, tmp_path):
  with pytest.raises(UserError, match=message):
    trials.load(f'{config_file}:{name}', tmp_path)


def test_an_override_for_all_trials(config_file, tmp_path, capsys):
  sweep_of = [f'{config_file}:rates', '--runs', tmp_path]
  assert run(*sweep_of, '--executor=print', '--config.model.dtype=bfloat16') == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and all(' --config.model.dtype=bfloat16 ' in line for line in lines)
  assert run(*sweep_of, '--dry-run', '--config.optimizer.b2=0.9', '--config.batch_size=10') == 0
  assert 'optimizer.b2=0.9-batch_size=10' in re.sub(r'\W*\n\W*', '', capsys.readouterr().out)
  _, found = trials.load(
    f'{config_file}:rates', tmp_path, None, {'optimizer.b2': '0.9', 'epochs': '1'}
  )
  assert [(trial.config.optimizer.b2, trial.config.epochs) for trial in found] == [(0.9, 1)] * 4
  texts = {'data.whiten': 'true', 'data.name': '7', 'run.log_every': '3'}
  for trial in trials.load(f'{config_file}:rates', tmp_path, None, texts)[1]:
    assert (trial.config.data.whiten, trial.config.data.name) == (True, '7')
    assert trial.config.run.log_every == 3
    assert trial.name.endswith('-data.whiten=true-data.name=7')  # logging makes no other run
    assert '--config.run.log_every=3' in trial.command


def test_an_override_that_changes_nothing_is_named(config_file, tmp_path, capsys):
  sweep_of = [f'{config_file}:rates', '--runs', tmp_path, '--executor=print']
  assert run(*sweep_of, '--config.model.width=5', '--config.data.zca_eps=0.1') == 0
  (line,) = capsys.readouterr().err.splitlines()  # digits are not whitened
  assert line == 'warning: --config.data.zca_eps changes nothing in any of these trials.'


@pytest.mark.parametrize(
  'argument, message',
  [
    ('--config.seed=1', '--config.seed: the sweep sets it; choose trials by --filter'),
    ('--config.model.dtyp=bfloat16', "rates, trial 1: the config has no key 'model.dtyp'"),
    ('--config.epochs=many', 'rates, trial 1: '),
    ('--config.epochs', '--config.epochs: write --config.KEY=VALUE'),
    ('--config.data.whiten=maybe', 'rates, trial 1: '),
    ('--confi.epochs=3', 'unrecognized arguments: --confi.epochs=3'),
    ('--config.protocol=paper', "trial 1: 'protocol' cannot be overridden; choose it in SPEC"),
    ('--config.variant.parameterization=wn', "'variant.parameterization' cannot be overridden"),
  ],
)
def test_bad_overrides(argument, message, config_file, tmp_path, capsys):
  assert run(f'{config_file}:rates', '--runs', tmp_path, argument) == 2
  assert message in capsys.readouterr().err and not (tmp_path / 'cifar').exists()


def test_the_progress_of_deep_q_learning_has_its_scores(tmp_path):
  _, (trial, *_) = trials.load(f'{ROOT}/configs/dqn.py:tiny', tmp_path)
  trial.workdir.mkdir(parents=True)
  (trial.workdir / 'metrics.jsonl').write_text('{"epoch": 1.0, "eval/score": 12.5}\n')
  assert trials.progress(trial) == trials.Progress(0.5, {'eval/score': 12.5})


def test_the_live_table(config_file, tmp_path):
  _, found = trials.load(f'{config_file}:eight', tmp_path)
  workdir = found[0].workdir
  workdir.mkdir(parents=True)
  rows = [{'epoch': 0.25, 'test/error': 0.5}, {'epoch': 0.5, 'train/loss': 1.0}]
  (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{"ep')
  states = dict.fromkeys([trial.name for trial in found], 'waiting')
  states |= {found[0].name: 'running', found[5].name: 'failed'}
  text = io.StringIO()
  console = Console(file=text, force_terminal=True, width=100, height=11, color_system=None)
  with Display(found, console) as display:
    display.show(states)
  screen = text.getvalue()
  assert '1 running, 1 failed, 6 waiting' in screen and 'and 3 more' in screen
  assert re.search(rf'{found[0].name}\W+running\W+50 %\W+test/error 50\.00 %', screen)
  assert screen.index(found[5].name) < screen.index(found[1].name)

  text = io.StringIO()
  with Display(found, Console(file=text, width=60)) as display:  # no terminal
    for _ in range(2):
      display.show(states)
  assert text.getvalue().splitlines() == [
    f'{found[0].name} running 50 % test/error 50.00 %',
    f'{found[5].name} failed',
  ]


@pytest.mark.parametrize(
  'visible, platforms, gpus, expected',
  [
    (None, None, 0, ['None None', 'None None']),
    ('3', 'cpu', 0, ['3 cpu', '3 cpu']),
    (None, None, 2, ['0,1 cuda', '2,3 cuda']),
    ('4,5,6', 'cuda,cpu', 1, ['4 cuda,cpu', '5 cuda,cpu']),
  ],
)
def test_gpus_are_dealt_out(visible, platforms, gpus, expected, config_file, tmp_path, monkeypatch):
  """What the commands themselves see: their GPUs, and that JAX is to use one."""
  for name, value in (('CUDA_VISIBLE_DEVICES', visible), ('JAX_PLATFORMS', platforms)):
    if value is None:
      monkeypatch.delenv(name, raising=False)
    else:
      monkeypatch.setenv(name, value)
  _, found = trials.load(f'{config_file}:four', tmp_path)
  show = (
    'import os, time; get = os.environ.get; '
    'print(get("CUDA_VISIBLE_DEVICES"), get("JAX_PLATFORMS"), flush=True); time.sleep(99)'
  )
  found = [dataclasses.replace(t, command=(sys.executable, '-c', show)) for t in found]
  executor = executors.Local(tmp_path, jobs=2, gpus=gpus)
  executor.submit(found)
  assert [executor.state(trial) for trial in found] == ['running'] * 2 + ['waiting'] * 2
  logs = [trial.log for trial in found[:2]]
  deadline = time.monotonic() + 60
  while not all(log.exists() and log.read_text().endswith('\n') for log in logs):
    assert time.monotonic() < deadline
    time.sleep(0.1)
  executor.interrupt()
  assert [log.read_text().strip() for log in logs] == expected


def test_too_few_gpus(config_file, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
  assert run(f'{config_file}:four', '--runs', tmp_path, '--jobs', '3', '--gpus', '1') == 2
  assert 'CUDA_VISIBLE_DEVICES=0,1 has too few GPUs' in capsys.readouterr().err


def test_a_trial_that_is_just_starting_is_stopped_as_well(config_file, tmp_path):
  _, found = trials.load(f'{config_file}:four', tmp_path)
  executor = executors.Local(tmp_path, jobs=4)
  executor.submit(found)
  for trial in found:
    executor.state(trial)
  controllers = [psutil.Process(int(job.job_id)) for job, _ in executor._running.values()]
  time.sleep(1)  # at different points of their start
  executor.interrupt()
  deadline = time.monotonic() + 10
  alive = lambda: [p for p in psutil.process_iter(['cmdline']) if str(tmp_path) in str(p.info)]
  while alive():
    assert time.monotonic() < deadline, alive()
    time.sleep(0.1)
  assert len(controllers) == 4
