#!/bin/bash

# The scheduler may announce the job's end before anything here listens.
trap '' USR1 USR2

umask 077

# A bare environment (sbatch's --export=NIL, Grid Engine's own) lacks them, or does not export
# them; bash knows both by itself.
[ -n "${HOME:-}" ] || HOME=~
export HOME PATH

# What only the submitting side needed, and what would make bash run files unasked.
unset BASH_ENV ENV DRMAA_LIBRARY_PATH

# By exec the job side is the process that the scheduler signals and waits for.
exec /opt/hpcrunner/bin/python -I -m hpcrunner.job /home/someone/.hpcrunner/batches/0123456789ab 1
