"""The library of judge_data.py.

  gain        what runs with and without the candidate differ by, with its interval, and how many seeds would show it
  runs        the runs: their recipes, commands and results
  report      the result as JSON and as a page
"""
