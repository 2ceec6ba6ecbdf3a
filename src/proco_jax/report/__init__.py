"""What a run tells: result rows, tables, metrics, pictures, and `report.md`."""
