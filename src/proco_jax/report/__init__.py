"""Tables, pictures and `report.md` of the results of a run."""
