"""The library of export_log.py.

  log_file        the lines of a log that grows, or that a resumed run has rewritten
  records         what a line of a log says, as numbers and texts by name
  export          one run on its way into one tool, and how far it has come
  to_tensorboard, to_trackio, to_wandb    the tools
"""
