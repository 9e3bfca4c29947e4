"""The library of plot.py.

  style       colours, and how axes look
  timeline    the stages of a recipe
"""
