"""Values on disk: what is asked, what came out, what it cost. No torch."""
