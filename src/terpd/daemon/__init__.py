"""From configuration to a running process: settings, wiring and the operator's commands."""
