"""The library of serve.py: an HTTP server over the batching engine of llmc/generate, with OpenAI's interface.

In the order in which a request goes through them:

  protocol            HTTP/1.1, for clients that stop half-way too
  gate                who may ask, whether work is taken, the log
  app                 the routes; errors: refusals as OpenAI words them
  fields              fields of a JSON object; openai_request: those of the two kinds of completions
  state               what all requests share: models, limits, metrics
  model               a model's tokenizer and chat template: prompts to tokens; tokens: what a single token stands for
  answering           one request, whole or as a stream; choice: one of its answers; openai_response: answers as JSON
  guard               answers that are given when a guard has found them safe
  page                the chat page's files, page/: app.js is its beginning, api.js what it asks of the server
  worker              the thread that computes; engine: ctypes binding of llmc/generate/engine.h
"""
