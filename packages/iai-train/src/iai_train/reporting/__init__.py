"""What is shown of rows: a file, a table, figures."""
