"""The stage `train`: packed splits in, a trained model out. `__main__` is the script."""
