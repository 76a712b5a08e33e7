"""Fail the way experiments do: with a traceback and a non-zero exit code."""

print("loading the data set")
raise SystemExit("ValueError: expected 3 channels, got 1")
