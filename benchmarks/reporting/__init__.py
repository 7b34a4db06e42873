"""What comes of it: results on disk, their statistics, tables, pictures, reports and comparisons."""
