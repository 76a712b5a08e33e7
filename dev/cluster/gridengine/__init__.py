"""Grid Engine: Debian's programs, a cell of our own, one execution host."""
