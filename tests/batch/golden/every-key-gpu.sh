#!/bin/bash
#SBATCH --job-name=hpcr-0123456789ab
#SBATCH --comment=hpcrunner:0123456789ab
#SBATCH --partition=gpu
#SBATCH --account=gpu-lab
#SBATCH --qos=long
#SBATCH --nodes=1-1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=1024
#SBATCH --time=24:10:00
#SBATCH --gpus-per-node=2
#SBATCH --requeue
#SBATCH '--constraint=skylake&ib'
#SBATCH --reservation=course
#SBATCH --exclusive
#SBATCH --output=/home/user/.hpcrunner/batches/0123456789ab/logs/1.out
#SBATCH --open-mode=append
#SBATCH --propagate=NONE
#SBATCH --chdir=/home/user/.hpcrunner/batches/0123456789ab
#SBATCH --export=NIL
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
export SLURM_CPUS_PER_TASK=4 SRUN_CPUS_PER_TASK=4

export https_proxy=http://proxy:3128
export GREETING='it'"'"'s "$HOME" & more'

# A script is no login shell: it may lack the function until the profile is read.
type module >/dev/null 2>&1 || . /etc/profile
module load cuda/12.4 || { echo "hpcrunner: cannot load the module" cuda/12.4 >&2; exit 78; }
module load 'odd name'"'"'s' || { echo "hpcrunner: cannot load the module" 'odd name'"'"'s' >&2; exit 78; }

ulimit -c 0
if [ -d /local ]; then
  export TMPDIR=/local
fi


# By exec the job side is the process that the scheduler signals and waits for.
exec /opt/hpcrunner/bin/python -I -m hpcrunner.job /home/user/.hpcrunner/batches/0123456789ab 1
