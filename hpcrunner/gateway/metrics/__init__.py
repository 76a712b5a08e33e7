"""What a gateway tells Prometheus: docs/operating.md lists the names."""
