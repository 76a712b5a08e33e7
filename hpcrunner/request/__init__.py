"""The request as data: parse, validate, units, redact; and what crosses to the compute node."""
