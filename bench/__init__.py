"""Each fast path against its floor in the same run: ratios, for a shared machine's absolute times are not stable."""
