"""What tests of programs that use reactstate need: faults, and checks."""
