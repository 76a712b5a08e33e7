"""hpcrunner: the StudioML runner for Slurm clusters."""

__version__ = "0.1.0"
