"""Tools for people who work on hpcrunner; nothing here is installed with it."""
