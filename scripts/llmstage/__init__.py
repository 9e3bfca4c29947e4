"""Stages of long work, each of them a few commands, that are run one after another and go on after a stop.

  stage       a stage, its commands, and what its result depends on
  runner      runs stages, and notes what is done
"""
