"""The rules, pure: standard library only. No I/O, no clock, no environment, no logging, no protos, no database."""
