"""The submitting side: build a request from a script, upload its artifacts, publish it."""
