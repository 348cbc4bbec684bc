"""Numbers from neighbours: metrics, result records, tables and pictures."""
