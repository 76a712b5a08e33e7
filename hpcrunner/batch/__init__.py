"""From a JobSpec to words: batch script, DRMAA native specification, container exec line."""
