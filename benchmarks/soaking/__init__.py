"""The parts of soak.py: what is to happen, making it happen, and judging what did."""
