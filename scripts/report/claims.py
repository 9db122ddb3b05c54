"""Writes the table of the paper's claims, and what became of them here, into README.md.

  python -m scripts.report.claims [--results results] [--readme README.md]

Every number of ours is computed from the rows under `results/`. A claim is *reproduced* when the
paper's own protocol ran to its end and agrees with its values; *consistent so far* when a part of
it, or a smaller one, agrees; *not seen* when it shows no difference; *contradicted* when it shows
the opposite; *too early* when the runs do not reach where the paper sees a difference, or lack
the choice of a rate that its values rest on; and *not run* when nothing is recorded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.runtime.errors import ArgumentParser, one_line_errors
from scripts.report import cifar_findings, findings, output
from scripts.report.findings import Finding


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim of the paper.

  Attributes:
    source: section and figure.
    text: the claim.
    paper: its values in the paper.
    find: the folder of results → `Finding`.
    command: reproduces it, at the paper's size unless its name says otherwise.
  """

  source: str
  text: str
  paper: str
  find: Callable[[Path], Finding]
  command: str


CLAIMS = (
  Claim(
    '§2.1',
    'CIFAR-10: `wn` works over a wider range of learning rates than `plain`',
    'stated without values',
    cifar_findings.rates,
    'python -m scripts.sweep configs/cifar.py:scaled_rates',
  ),
  Claim(
    '§5.1, Figure 2',
    'CIFAR-10: `wn` with mean-only batch normalization has the lowest test error',
    '`wn_mean_bn` 7.31, `bn` 8.05, `plain` 8.43, `wn` 8.46, `mean_bn` 8.52 %',
    cifar_findings.lowest_error,
    'python -m scripts.sweep configs/cifar.py:figure2',
  ),
  Claim(
    '§5.1, Figure 1',
    'CIFAR-10: `wn` learns faster than `plain`, at rates 0.003 and 0.0003',
    'training error `wn` 3.3, `plain` 4.8 % after 50 epochs; `wn` 1.6, `plain` 3.1 % after 100',
    cifar_findings.training,
    'python -m scripts.sweep configs/cifar.py:figure1',
  ),
  Claim(
    '§5.1, Figure 2',
    'CIFAR-10: `wn` and `plain` end at equal test errors',
    '`wn` 8.46, `plain` 8.43 %, each at the best of four rates',
    cifar_findings.equal_errors,
    'python -m scripts.sweep configs/cifar.py:figure2',
  ),
  Claim(
    '§5.2, Figure 3',
    'MNIST VAE: `wn` ends ahead of `plain`',
    '`wn` −85.3, `plain` −85.85 nats after 300 epochs; no difference before 80',
    findings.vae,
    'python -m scripts.sweep configs/vae.py:figure3 --filter dataset=mnist',
  ),
  Claim(
    '§5.3, Figure 4',
    'DRAW: `wn` learns several times faster',
    '`wn` −120 nats at epoch 5, −102.5 at 10, −94 at 20; `plain` −120 at 37',
    findings.draw,
    'python -m scripts.sweep configs/draw.py:figure4_prefix',
  ),
  Claim(
    '§5.4, Figures 5 and 6',
    'DQN on Space Invaders: `wn` ends higher',
    '`wn` 2,179, `plain` 1,779 points; no difference in the first 10 million frames',
    findings.dqn,
    'python -m scripts.sweep configs/dqn.py:figure6 --filter game=space_invaders',
  ),
)


def table(results: Path) -> str:
  """The claims as a Markdown table."""
  lines = ['| claim | paper | ours | verdict | command |', '| --- | --- | --- | --- | --- |']
  for claim in CLAIMS:
    finding = claim.find(results)
    cells = (
      f'{claim.text} ({claim.source})',
      claim.paper,
      finding.ours or '–',
      f'*{finding.verdict}*',
      f'`{claim.command}`',
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m scripts.report.claims')
  parser.add_argument('--results', type=Path, default=Path('results'))
  parser.add_argument('--readme', type=Path, default=Path('README.md'))
  with one_line_errors():
    args = parser.parse_args(argv)
    output.check_markers(args.readme, 'claims')
    output.replace_block(args.readme, 'claims', table(args.results))


if __name__ == '__main__':
  main()
