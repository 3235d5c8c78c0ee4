"""Thresholds of the physical checks, in one table each. docs/initial-conditions.md says where they come from."""

from __future__ import annotations

# Smallest and largest plausible value anywhere on Earth of a global analysis at 9 km to 300 km, in `units`.
# By variable, or by short name for all its pressure levels.
RANGES: dict[str, tuple[float, float]] = {
    "10u": (-80, 80),
    "10v": (-80, 80),
    "2d": (150, 315),
    "2t": (170, 335),
    "lsm": (-1e-4, 1 + 1e-4),
    "msl": (85000, 110000),
    "q": (-1e-6, 0.04),
    "sdor": (-1e-3, 3000),
    "skt": (160, 360),
    "slor": (-1e-4, 2),
    "sp": (40000, 111000),
    "stl1": (170, 350),
    "stl2": (170, 345),
    "t": (165, 335),
    "tcw": (-0.1, 130),
    "u": (-150, 170),
    "v": (-150, 150),
    "w": (-40, 40),
    "z": (-7000, 80000),
}

# Geopotential height (gpm) of a pressure level (hPa): polar lows and polar winters to subtropical highs.
HEIGHTS: dict[int, tuple[float, float]] = {
    1000: (-1500, 900),
    925: (-800, 1500),
    850: (0, 2100),
    700: (1700, 3600),
    600: (2800, 4800),
    500: (4200, 6300),
    400: (5500, 8000),
    300: (7200, 10200),
    250: (8300, 11500),
    200: (9600, 13000),
    150: (11200, 14900),
    100: (13300, 17400),
    50: (17000, 21700),
}

# Relative difference between surface pressure and what the hypsometric equation gives, root mean square by area.
# A GFS analysis has 0.003 (0.007 on high ground); surface pressure copied from msl has 0.10 (0.28).
SURFACE_PRESSURE = 0.015
SURFACE_PRESSURE_HIGH_GROUND = 0.03
HIGH_GROUND = 500.0  # m
# The same against the geopotential of the pressure levels: a GFS analysis has 0.0003.
SURFACE_PRESSURE_PROFILE = 0.01

# Relative difference between a layer's thickness and that of its mean virtual temperature, root mean square.
# A GFS analysis on these levels has at most 0.008.
THICKNESS = 0.025

# 2 m dew point above 2 m temperature: by how much (K), on what share of the globe.
DEW_POINT_EXCESS = 0.5
DEW_POINT_SHARE = 0.01

# Root mean square change from T-6h to T by area. Seen: 6 h (GFS-based replica), 12 h and 24 h (ERA5).
#          6 h    12 h   24 h
# z_500    221    390    625    m2 s-2
# t_500    1.1    2.3    3.3    K
# t_850    1.4    2.3    3.0    K
# msl      204                  Pa
CHANGES: dict[str, float] = {"z_500": 330, "t_500": 1.9, "t_850": 2.2, "msl": 420}
