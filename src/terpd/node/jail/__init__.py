"""Where a machine's monitor runs: its prepared root, its launcher, its process, its uid and its cgroup."""
