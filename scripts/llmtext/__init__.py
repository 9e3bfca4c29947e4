"""Parts of generate.py: the library's generator, chat templates, text as it streams."""
