"""The library of herd.py.

  settings    the file of settings, checked
  files       the files that the programs read, made of its sections
  stages      the stages and their commands
  checks      all stages checked before the first one runs
  needs       what each stage takes: time, memory and disk
  runner      runs the stages
"""
