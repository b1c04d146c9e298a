"""A benchmark's report: tables, pages, and the difference of two runs."""
