"""From a recipe to what a machine boots: kernel, initramfs, root file system and its ext4 image, cached by content."""
