"""The library of plan.py.

  library     memory, as the C library plans it
  traffic     bytes on each link
  gpus        data of GPUs; predict: the time of a step
  choices     what can be chosen, and what it takes; tables: what is printed
"""
