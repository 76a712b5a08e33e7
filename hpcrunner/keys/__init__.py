"""Key files of the gateway's user: directories of them, watched, and what they may look like."""
