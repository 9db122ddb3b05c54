"""Scores the best network of a deep Q-learning run on new episodes, from the command line.

  python -m experiments.dqn.score --workdir runs/dqn/breakout-wn-scaled/seed0

The highest of many evaluations is partly luck. This plays new episodes with the network of that
evaluation, by the same rules (Mnih et al. 2015 play 30), and writes `score-EPISODES.json` into the
run, or `score-EPISODES-epsilon-E.json` if `--epsilon` differs from that of the run. `--epsilon 1`
is random play. Rerun the same command to resume.
"""

from experiments.runtime import environment, interrupts
from experiments.runtime.errors import ArgumentParser, UserError, one_line_errors, user_path


def main() -> None:
  """Reads the command line."""
  parser = ArgumentParser(__doc__, 'python -m experiments.dqn.score')
  parser.add_argument('--workdir', type=user_path, required=True, help='directory of the run')
  parser.add_argument('--episodes', type=int, default=100, help='number of episodes')
  parser.add_argument('--epsilon', type=float, help='probability of a random action')
  with one_line_errors():
    args = parser.parse_args()
    if args.episodes < 1:
      raise UserError(f'--episodes {args.episodes}: give 1 or more.')
    if args.epsilon is not None and not 0 <= args.epsilon <= 1:
      raise UserError(f'--epsilon {args.epsilon}: give a value between 0 and 1.')
    interrupts.install()
    environment.prepare(ynn_products=True)
    from experiments.dqn import best_network  # needs the environment and the extra `rl`

    result = best_network.score(args.workdir, args.episodes, args.epsilon)
    print(
      f'score {result["score"]:.1f} ± {result["standard_error"]:.1f} ({args.episodes} episodes, '
      f'ε = {result["epsilon"]:g}; network after {result["frames"]:,} frames, '
      f'highest score of the run: {result["highest_score"]:.1f})'
    )


if __name__ == '__main__':
  main()
