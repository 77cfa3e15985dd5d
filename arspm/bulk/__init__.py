"""Portraits of many recordings: `recordings` finds them, `item_files` reads and writes, `drawing` draws."""
