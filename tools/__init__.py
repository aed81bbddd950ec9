"""Programs on top of the pipeline: demo, sweep, publish, leaderboard, release, unpack. No stage imports them."""
