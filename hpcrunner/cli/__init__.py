"""Typer commands, one file a command group; no logic of their own."""
