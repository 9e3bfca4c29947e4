"""The library of generate.py and rejection_sample.py.

  generator, scorer   ctypes bindings of the C library: write texts with a model, score them with a reward model
  options             the options of sampling and of the build
  prompts             prompts from rows; turns: a prompt, or a prompt with an answer, as token ids
  texts               a text while it is written; sampling: many texts of many prompts side by side
  journal             notes what is done; fingerprint: which model a folder holds
  rejection           the two passes of rejection sampling
"""
