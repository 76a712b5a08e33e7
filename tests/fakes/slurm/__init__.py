"""A small Slurm for tests: a controller, accounting, and the five commands that hpcrunner calls.

What it says is what Slurm 22.05 says; test_fake_slurm.py compares both. It does what a test
tells it (jobs start and end by calls), and what reality gives on demand to nobody: a submission
that is taken while its answer is lost, accounting that lags, servers that are down.

====================  ======================================================================
``cluster.py``        the state: jobs in the controller, rows in accounting, faults
``commands.py``       argv in, what the command prints out
``runner.py``         the commands in this process, for hpcrunner's ``Runner`` protocol
``store.py``          the state in a file, shared by processes
``program.py``        the commands as executables; ``install`` puts them into a folder
``node.py``           a node that runs the batch scripts of waiting jobs for real
====================  ======================================================================

Imports stay few: an executable starts some ten thousand times in a long test.
"""
