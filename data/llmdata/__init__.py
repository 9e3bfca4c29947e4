"""The library of the programs in data/, and of those in scripts/ that read texts, chats and models' folders.

In the order in which data flow:

What all programs share
  program             runs a program's work: faults become one line and an exit code
  errors              the two exceptions that do so; characters: text that is safe to print
  options             --version and checks of options
  progress            a bar or lines that say how far a pass is
  page                parts of pages of HTML that need no other file
  pool                work on several processes, with results in order

Reading
  files               which of the files and folders that a user names are read
  text_file           .txt and compressed files as UTF-8 text, lines or JSON; says what is wrong with any other file
  records             rows of .jsonl, .json and .parquet
  section             members of an object in a JSON file, checked
  model_folder        the folder of a model or of its newest checkpoint

Texts to shards (prepare_data.py)
  pieces              cuts a document into pieces, some of which are held out
  documents           reads the documents of a file, in pieces
  split               chooses what is held out for validation
  sentencepiece_model converts SentencePiece's tokenizer.model
  tokenizer           trains, reads or converts the tokenizer
  glushkov            which characters can be neighbours inside a match of a regular expression
  cut_points          where a text can be cut without changing its tokens
  encode              texts to token ids on all cores
  shards              the shard format

Chats to rows (prepare_chat.py)
  bad_row             why a row is left out
  formats             rows of other programs (ShareGPT, Alpaca, ...) in our fields
  messages            messages read from JSON and checked
  chat_rows           a row as a conversation, or as a prompt with answers to compare
  prefix_space        the space that some tokenizers put in front of a text
  provenance          text that knows which message each of its characters comes from
  template_hints      what to change in messages that a template cannot write
  chat_template       a conversation as text and token ids
  chat_tokens         a row as tokens, with those that are trained
  chat_set            files of chats to rows, on several processes
  rows                the format of rows
  row_display         rows printed as text
  detokenizer         token ids to text as they come

Questions to items (prepare_eval.py)
  eval_rows           rows of public evaluation sets as questions with endings
  needles             questions about sentences planted in long texts
  eval_set            the format of items
  words               words of a text as hashes; overlap: items of evaluations that stand in other texts
  output              writing: a data set appears as a whole or not at all
"""
