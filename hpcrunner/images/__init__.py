"""Container images: pulled once, kept for other jobs, checked before they are used."""
