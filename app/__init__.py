"""The terminal studio: command line, screens and glyphs over the stream of snapshots."""
