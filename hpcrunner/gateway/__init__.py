"""The service on the login node: intake, journal, dispatch, track."""
