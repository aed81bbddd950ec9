"""The pipeline. What must be in the environment before any library reads it, for every stage alike."""

import os

# Threads that wait spin on a core that a run beside this one could use: without it two runs at once are slower than
# one after the other. The number of threads stays as it is, since the bytes of a trained model depend on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# cuBLAS gives the same bits every time only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
