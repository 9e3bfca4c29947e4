"""The library of post_train.py.

  settings    round.json, checked
  stages      the stages of a round and their commands
  runner      runs the stages, and continues where a round was stopped
  report      the page about the round; charts: its pictures
"""
