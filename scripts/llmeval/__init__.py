"""Evaluation suites: kinds of tasks, how their answers are judged, and what a score says."""
