"""The JSON that goes in and out, one file per resource; what goes in is strict, unknown fields are refused."""
