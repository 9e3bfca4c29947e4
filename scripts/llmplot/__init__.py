"""The library of plot.py.

  style       colours, and how axes look
  timeline    the stages of a recipe
  heat_map    needles in a haystack: what is found, by length and depth
"""
