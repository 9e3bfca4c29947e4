"""Parts of generate.py and rejection_sample.py: the library's generator and scorer, chat templates, prompts, text as it comes."""
