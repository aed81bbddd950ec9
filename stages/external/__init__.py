"""The stage `external`: what an answer is worth on data sets that training never sees. `__main__` is the script."""
