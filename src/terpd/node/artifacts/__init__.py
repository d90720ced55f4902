"""Where saved states are kept: a folder of this host, or S3-compatible storage with a local cache."""
