"""The stage `evaluate`: a trained model and the test split in, metrics and plots out. `__main__` is the script."""
