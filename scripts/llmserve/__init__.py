"""HTTP server over the batching engine of llmc/generate, in the form of OpenAI's interface."""
