"""Reports: what a client's response queue is told of its experiments while they run."""
