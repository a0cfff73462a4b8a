"""One command carried out, without its words."""
