#!/bin/bash
#SBATCH --job-name=hpcr-0123456789ab
#SBATCH --comment=hpcrunner:0123456789ab
#SBATCH --partition=normal
#SBATCH --nodes=1-1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=460800
#SBATCH --time=01:10:00
#SBATCH --no-requeue
#SBATCH --output=/home/someone/.hpcrunner/batches/0123456789ab/logs/1.out
#SBATCH --open-mode=append
#SBATCH --propagate=NONE
#SBATCH --chdir=/home/someone/.hpcrunner/batches/0123456789ab
#SBATCH --export=NONE
#SBATCH --signal=B:USR1@30

# The scheduler may announce the job's end before anything here listens.
trap '' USR1

umask 077

# A bare environment (sbatch's --export=NIL, Grid Engine's own) lacks them, or does not export
# them; bash knows both by itself.
[ -n "${HOME:-}" ] || HOME=~
export HOME PATH

# What only the submitting side needed, and what would make bash run files unasked.
unset BASH_ENV ENV DRMAA_LIBRARY_PATH
unset SLURM_DRMAA_CONF SLURM_DRMAA_USE_SLURMDBD ${!SBATCH_*}

# An srun in the payload would take the submission's --export, and from Slurm 22.05 one CPU.
# Through DRMAA, Slurm does not set SLURM_CPUS_PER_TASK either.
export SLURM_EXPORT_ENV=ALL
export SLURM_CPUS_PER_TASK=2 SRUN_CPUS_PER_TASK=2

# By exec the job side is the process that the scheduler signals and waits for.
exec /opt/hpcrunner/bin/python -I -m hpcrunner.job /home/someone/.hpcrunner/batches/0123456789ab 1
