"""Volumes on this host: their disks, who holds them, and their checkpoints in the artifact store."""
