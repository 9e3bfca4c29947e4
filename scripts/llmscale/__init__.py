"""The library of scaling.py.

Before the runs
  counting            parameters and FLOPs, in every way that published laws count them
  sizes               the rule that makes a Llama configuration of a depth
  tuning              learning rate, batch, warmup and beta2 by size
  settings            the plan file, checked
  planning            the runs of a plan, and a table of them
  speed               expected time and memory of a run

The runs
  data                what identifies the data that runs were trained and validated on
  run                 one run: its command, its folder, how it ended
  sweep               all runs, on this machine or as a Slurm array

After the runs
  points              finished runs, or rows of a table, as points that can be fitted together
  resample            draws of noise for intervals
  isoflop             parabolas through each budget, and power laws through their minima
  parametric          L(N, D) = E + A/N^alpha + B/D^beta
  disagreement        how far the two are apart, and why
  forecast            size, tokens and loss at a budget, and how flat the optimum is
  accuracy            from loss to accuracy on a task
  fitted              all of these together, and as JSON
  results             the commands fit and forecast; report: a page, charts: its pictures

plan_tables and fit_tables have what is printed.
"""
