"""A site's configuration as data, and which partition, GPU type and limits a request gets."""
