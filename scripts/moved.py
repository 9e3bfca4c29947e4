#!/usr/bin/env python3
"""Under the old names of the programs that now lie in data/, which serve until version 0.6: says the new one and runs it."""

import os
import sys

name = os.path.basename(sys.argv[0])
print(f"scripts/{name} has moved: it is data/{name} now", file=sys.stderr)
new = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "data", name)
os.execv(sys.executable, [sys.executable, new, *sys.argv[1:]])
