"""Parts of post_train.py: what a round's file may say, its stages, how they are run, and the report."""
