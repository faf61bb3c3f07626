"""Everything that writes files for the user: atomic writes, records, vectors, and image galleries."""
