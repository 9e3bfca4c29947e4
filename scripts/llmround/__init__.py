"""The library of post_train.py.

  settings    round.json, checked
  stages      the stages of a round and their commands
  report      the page about the round; charts: its pictures
"""
