"""The server: takes cards back, gives them back and pays for them. See ARCHITECTURE.md for the map."""
