"""Claims that small models answer once they are trained: shapes side by side on the same tokens, and what they then can do."""
