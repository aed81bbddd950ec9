"""Programs that people run on top of the pipeline: sweep, publish, leaderboard, release. No stage imports them."""
