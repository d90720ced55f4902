"""The virtual machine monitor: a port (`base`), QEMU behind it, and how this host accelerates it."""
