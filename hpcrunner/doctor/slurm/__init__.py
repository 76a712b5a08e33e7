"""What the doctor asks of Slurm, and its judgements of the answers; no other folder of the doctor
knows a word of Slurm.
"""
