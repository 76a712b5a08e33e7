"""Submit, cancel and look up: DRMAA, sbatch and local behind one protocol."""
