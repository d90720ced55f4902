"""The gateway process: accepts what guests dial, decides, resolves, dials what it checked, relays, records."""
