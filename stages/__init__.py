"""The pipeline: a folder for each stage, and the modules that stages share.

Importing it sets environment variables that libraries read when they are loaded.
"""

import os
import sys

from detector.cores import cgroup_quota, thread_count
from detector.errors import excepthook

ENVIRONMENT = {
    # Threads that wait for work spin for some ten microseconds, then sleep. OpenMP's default is longer, and keeps the
    # core from whatever else runs; without any spinning a step of resnet18 takes 1.1 times as long (two cores).
    "GOMP_SPINCOUNT": "20000",
    # cuBLAS gives the same bits every time only with a workspace of fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # float32 is float32 on a GPU too: its convolutions would round what they multiply to 10 bits (TF32).
    "NVIDIA_TF32_OVERRIDE": "0",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
if cgroup_quota() is not None:  # OpenMP, which torch computes with, knows the affinity, not this
    os.environ.setdefault("OMP_NUM_THREADS", str(thread_count()))

sys.excepthook = excepthook  # importing torch takes more memory than some machines allow
