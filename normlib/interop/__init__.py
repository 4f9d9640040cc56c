"""Norms inside the frameworks that people have; nothing here is imported unless asked for."""
