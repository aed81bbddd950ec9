"""The stage `export`: a trained model in, a folder that answers without torch out. `__main__` is the script."""
