"""The library of data/curate.py: raw pages to documents, step by step, on datatrove's executors.

  step         what a step is, and what every step does: judge, count, keep examples, bear with bad documents
  verdict      what a step says of a document; counts: what it did, in numbers and examples
  steps        the table of all steps, in order
  settings     the file of settings, checked
  run          settings to passes, and on from where an earlier run ended
  executors    this machine's cores, or Slurm; supervise: tasks whose processes die or hang
  statistics   what all tasks counted; report: as a page

Reading and writing
  inputs       the files of a run, dealt to tasks
  readers      files as documents; warc, rows, pages: by format
  documents    documents in files between passes, and at the end; files: whole or absent

Steps
  url_filter                       domains and URLs by list
  extract                          HTML to text; main_content: what of a page is content; page_marks: mathematics, Markdown
  language                         languages of documents and lines
  heuristics, divergence           rules of thumb, the words of the corpus; rules: tables of measures and limits
  url_dedup, minhash, line_dedup   duplicates; tables: what they keep on disk; words: words and n-grams as hashes;
                                   clusters: how many documents stand for the same text
  pii                              personal data; personal: finds them
  quality                          classifiers: quality, code and reasoning, topic; classifier: the model's files
  decontaminate                    overlap with evaluation items

A document's metadata, as readers leave it: type ("html" or "text"), url, domain, source, date (ISO 8601), language
where the input knows it, token_count. Steps add their own.
"""
