"""Import this before `stages`: what `stages` sets in the environment for its own trainer is taken back.

The programs that ours are compared with run as their users run them.
"""

import os

import stages

for name in stages.ENVIRONMENT:
    os.environ.pop(name, None)
