"""The job side: what runs on the compute node around a payload. Standard library at start."""
