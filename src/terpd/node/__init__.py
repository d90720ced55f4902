"""Everything that happens on one host: machines, their templates, disks, jails and the wire to their guests."""
