"""How good a forecast was: its members against analyses."""
