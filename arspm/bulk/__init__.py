"""Portraits of many recordings: `recordings` finds them, `drawing` reads, draws and writes them, item by item."""
