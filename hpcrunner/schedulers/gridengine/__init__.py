"""Grid Engine: submissions by its DRMAA library; qstat, qacct and qdel for all else."""
