"""The library of plot.py.

  style       colours, and how axes look
  run_log     where a run's log lies
  timeline    the stages of a recipe
  heat_map    needles in a haystack: what is found, by length and depth
"""
