"""A development cluster on loopback: real Slurm, RabbitMQ and S3 on one machine.

Run it from the repository root with ``python3 -m dev.cluster``. It uses only the standard
library, because it runs before any virtual environment exists.
"""
