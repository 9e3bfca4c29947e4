#!/usr/bin/env python3
"""Runs a program of data/ under its old name in scripts/, and prints the new name. The old names serve until version 0.6."""

import os
import sys

name = os.path.basename(sys.argv[0])
print(f"scripts/{name} has moved: it is data/{name} now", file=sys.stderr)
new = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "data", name)
os.execv(sys.executable, [sys.executable, new, *sys.argv[1:]])
