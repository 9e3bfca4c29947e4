"""What plan.py is made of: memory (the library's own plan), traffic on each link, predicted time."""
