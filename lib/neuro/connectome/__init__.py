"""Wiring of real brains: tables from public files, and pathways cut out of them."""
