"""Tables in, tables and figures out."""
