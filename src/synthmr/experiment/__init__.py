"""The papers' tables as commands: one YAML file a table or figure, run cell by cell, printed beside the paper's numbers."""
