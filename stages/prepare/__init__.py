"""The stage `prepare`: a data set in, packed splits out. `__main__` is the script."""
