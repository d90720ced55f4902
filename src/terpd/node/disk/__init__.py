"""Copy-on-write disks of machines."""
