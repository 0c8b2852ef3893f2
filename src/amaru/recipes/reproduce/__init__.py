"""Claims of the papers, tried on a machine that anyone has: controlled runs cell by cell, and a verdict from what they left on disk."""
