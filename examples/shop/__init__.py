"""Fernway Outfitters: the demo company that every example, tour step and screenshot of Interlock uses."""
