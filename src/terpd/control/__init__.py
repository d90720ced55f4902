"""The use cases, one file each: what should be, and in which order it is recorded and done."""
